"""`Scores`: what a batch of responses is worth, which of them are correct, and which could not be scored."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.rewards.verdicts import Problem, Score, reasons_of

Verdict = float | Score | Problem

_NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a batch of responses; unpacking gives `scores, problems`.

    Args:
        scores: One score per response, in float32; NaN where a response could not be scored.
        problems: How many responses were lost for each reason.
        correctness: The numbers that say which responses are correct; None where the scores say so themselves.
        components: The components of the scores by name; NaN where a response has none of this name.
        lost: For each reason, the first response that was lost for it.

    Example:
        >>> found = Scores(torch.tensor([0.1, 1.1]), {}, correctness=torch.tensor([0.0, 1.0]))
        >>> found.correct(above=0.0)
        tensor([False,  True])
    """

    scores: Float[Tensor, " batch"]
    problems: dict[str, int] = field(default_factory=dict)
    correctness: Float[Tensor, " batch"] | None = None
    components: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.scores, self.problems))

    def correct(self, above: float = 0.0) -> Bool[Tensor, " batch"]:
        """Return which responses are correct.

        Args:
            above: What the correctness of a response must exceed.

        Returns:
            True where a response is correct; False where it could not be scored.
        """
        said = self.scores if self.correctness is None else self.correctness
        return (said > above) & ~self.scores.isnan()


def scores_of(verdicts: Iterable[Verdict], responses: Sequence[str], details: dict[str, str]) -> Scores:
    """Return the scores of a batch from what the calls of its reward came to.

    Args:
        verdicts: One per response.
        responses: The responses.
        details: The details of each kind of problem; see [reasons_of][rl4llm.rewards.verdicts.reasons_of].
    """
    verdicts = list(verdicts)
    lost = [(one, said) for one, said in zip(verdicts, responses, strict=True) if isinstance(one, Problem)]
    problems, examples = dict[str, int](), dict[str, str]()
    for reason, (_, response) in zip(reasons_of([one for one, _ in lost], details), lost, strict=True):
        problems[reason] = problems.get(reason, 0) + 1
        examples.setdefault(reason, response)
    named = [one.components if isinstance(one, Score) else {} for one in verdicts]
    names = dict.fromkeys(name for components in named for name in components)
    return Scores(
        _tensor([_value(one) for one in verdicts]),
        problems,
        _tensor([_correctness(one) for one in verdicts]) if any(isinstance(one, Score) for one in verdicts) else None,
        {name: _tensor([components.get(name, _NAN) for components in named]) for name in names},
        examples,
    )


def _tensor(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def _value(verdict: Verdict) -> float:
    if isinstance(verdict, Problem):
        return _NAN
    return verdict.value if isinstance(verdict, Score) else verdict


def _correctness(verdict: Verdict) -> float:
    if isinstance(verdict, Score) and verdict.correctness is not None:
        return verdict.correctness
    return _value(verdict)
