"""The laws of rewards: functions `(prompt, response, answer) -> score` of a user."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rewards import Reward, score_responses

_TEXT = st.one_of(
    st.text(max_size=40), st.sampled_from(["", " ", "\n", "42", "\\boxed{42}", "(1)2", "é→b", "a" * 3000])
)


def check_reward(reward: Reward, *, prompt: Any = "1+1=", answer: Any = "2", right: str | None = None) -> None:
    """Check a verifier: the same text always gets the same score, a finite number, whatever the text.

    Args:
        reward: The verifier.
        prompt: A prompt of the data set.
        answer: Its answer.
        right: A response that must get the highest score of all that are tried.

    Raises:
        AssertionError: Naming the response, and what was seen.

    Example:
        >>> check_reward(lambda prompt, response, answer: float(response.strip() == answer), right="2")
    """
    if not callable(reward):
        raise UsageError(
            f"check_reward: {reward!r} is not callable; pass a function (prompt, response, answer) -> score."
        )

    def score(response: str) -> float:
        scores, problems = score_responses(reward, [prompt], [response], [answer])
        assert not problems, f"response {response!r} could not be scored: {next(iter(problems))}"
        return float(scores[0])

    best = None if right is None else score(right)

    @settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_TEXT)
    def trial(response: str) -> None:
        first = score(response)
        assert first == score(response), f"response {response!r} gets {first} once and {score(response)} then"
        assert best is None or first <= best, f"response {response!r} gets {first}, more than the right one's {best}"

    trial()
