"""The family of rewards: `(prompt, response, answer) -> score`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rl4llm.rewards.scores import Scores, Verdict, scores_of
from rl4llm.rewards.verdicts import LARGEST_SCORE, call_reward


class Verifier(ABC):
    """A reward that has settings: a frozen dataclass, called as any reward.

    Subclasses are named on the command line by their class (`--data.task.reward=NumericMatch`), and their fields are
    flags (`--data.task.reward.tolerance=0.01`). A verifier raises where it cannot score a response; the response is
    then left out of every statistic and counted.
    """

    @abstractmethod
    def __call__(self, prompt: Any, response: str, answer: Any) -> Any:
        """Score one response.

        Args:
            prompt: The prompt, a text or a list of chat messages.
            response: The decoded response.
            answer: What the example holds as its answer.

        Returns:
            A number, or a [Score][rl4llm.rewards.Score] that names the components of one.
        """

    def prepare(self) -> None:
        """Import what is slow to import; called in the process of the run before worker processes are forked."""
        return


# Scores one response with a finite number (True and False are 1 and 0), a `Score`, or a mapping of named components.
# None, NaN, an infinity, anything else or an exception mean "could not be scored": the response is left out of every
# statistic and counted, never silently 0.
Reward = Verifier | Callable[[Any, str, Any], Any]


def score_responses(
    reward: Reward,
    prompts: Sequence[Any],
    responses: Sequence[str],
    answers: Sequence[Any],
    *,
    largest: float = LARGEST_SCORE,
) -> Scores:
    """Score every response in this process; what raises or returns no finite number becomes NaN with its reason.

    There is no time limit here, and a reward that crashes takes the process along: [Scorer][rl4llm.rewards.Scorer]
    scores in worker processes. Ctrl-C passes through.

    Args:
        reward: The verifier.
        prompts: One prompt per response.
        responses: Decoded responses.
        answers: What the verifier compares with, one per response.
        largest: Largest magnitude of a score.

    Returns:
        One score per response, and the number of unscorable responses by reason.

    Example:
        >>> found = score_responses(lambda prompt, response, answer: 1 / int(response == answer), ["", ""], "12", "11")
        >>> found.scores, found.problems
        (tensor([1., nan]), {"raised ZeroDivisionError, for example 'division by zero'": 1})
    """
    return score_here(reward, list(zip(prompts, responses, answers, strict=True)), largest, {})


def score_here(
    reward: Reward, samples: Sequence[tuple[Any, str, Any]], largest: float, details: dict[str, str]
) -> Scores:
    """Score triples in this process; `details` keeps the reasons alike from batch to batch."""
    verdicts: Iterable[Verdict] = [call_reward(reward, *sample, largest) for sample in samples]
    return scores_of(verdicts, [response for _, response, _ in samples], details)
