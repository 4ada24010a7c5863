"""The family of rewards: `(prompt, response, answer) -> score`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Scores one response with a finite number (True and False are 1 and 0). None, NaN, an infinity, anything else or an
# exception mean "could not be scored": the response is left out of every statistic and counted, never silently 0.
Reward = Callable[[Any, str, Any], float | None]


class Scores(NamedTuple):
    """Scores in float32, NaN where a response could not be scored, and one line for each distinct reason."""

    scores: Float[Tensor, " batch"]
    problems: list[str]


def score_responses(reward: Reward, prompts: Sequence[Any], responses: Sequence[str], answers: Sequence[Any]) -> Scores:
    """Score every response; what raises or gives no finite number becomes NaN with its reason.

    Args:
        reward: The verifier.
        prompts: One prompt a response.
        responses: Decoded responses.
        answers: What the verifier compares with, one a response.

    Returns:
        One score a response, and the distinct problems in order of appearance.

    Example:
        >>> score_responses(lambda prompt, response, answer: 1 / int(response == answer), ["", ""], ["1", "2"], "11")
        Scores(scores=tensor([1., nan]), problems=['ZeroDivisionError: division by zero'])
    """
    scores, problems = [], []
    for prompt, response, answer in zip(prompts, responses, answers, strict=True):
        score, problem = _score_one(reward, prompt, response, answer)
        scores.append(score)
        if problem and problem not in problems:
            problems.append(problem)
    return Scores(torch.tensor(scores, dtype=torch.float32), problems)


def _score_one(reward: Reward, prompt: Any, response: str, answer: Any) -> tuple[float, str | None]:
    try:
        result: Any = reward(prompt, response, answer)
    except Exception as error:  # a user's function: whatever it raises is counted, not fatal
        return float("nan"), f"{type(error).__name__}: {error}".splitlines()[0]
    try:
        score = float(result)
    except (TypeError, ValueError):
        return float("nan"), f"returned {result!r}, not a number"
    if score - score != 0.0:
        return float("nan"), f"returned {score}"
    return score, None
