"""The family of rewards: `(prompt, response, answer) -> score`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.rewards.verdicts import LARGEST_SCORE, Problem, call_reward, count_problems

# Scores one response with a finite number (True and False are 1 and 0). None, NaN, an infinity, anything else or an
# exception mean "could not be scored": the response is left out of every statistic and counted, never silently 0.
Reward = Callable[[Any, str, Any], float | None]


class Scores(NamedTuple):
    """Scores in float32, NaN where a response could not be scored, and how many were lost for each reason."""

    scores: Float[Tensor, " batch"]
    problems: dict[str, int]


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
        >>> score_responses(lambda prompt, response, answer: 1 / int(response == answer), ["", ""], ["1", "2"], "11")
        Scores(scores=tensor([1., nan]), problems={"raised ZeroDivisionError, for example 'division by zero'": 1})
    """
    return score_here(reward, zip(prompts, responses, answers, strict=True), largest, {})


def score_here(
    reward: Reward, samples: Iterable[tuple[Any, str, Any]], largest: float, details: dict[str, str]
) -> Scores:
    """Score triples in this process; `details` keeps the reasons alike from batch to batch."""
    results = [call_reward(reward, prompt, response, answer, largest) for prompt, response, answer in samples]
    problems = [result for result in results if isinstance(result, Problem)]
    scores = [float("nan") if isinstance(result, Problem) else result for result in results]
    return Scores(torch.tensor(scores, dtype=torch.float32), count_problems(problems, details))
