"""A*-PO's V*: the value of a prompt under the best policy near the first one, from a survey before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_choice, check_group_tensors, check_interval
from rl4llm.critics.base import Survey, Surveyed, ValueContext, ValueSource, ValueSpec
from rl4llm.critics.prompts import check_uids, find
from rl4llm.groups import group_max, group_mean
from rl4llm.masked import at_least_float32, keep, result_dtype, spread

_KEEP = ("all", "solved", "mixed")


@torch.no_grad()
def optimal_value(
    scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], *, beta: float = 0.5
) -> Float[Tensor, " batch"]:
    """Compute the value of a prompt under the optimal policy with a KL penalty of weight β.

        V* = β log (1/n Σᵢ exp(rᵢ/β))        β → 0: the largest score        β → ∞: the mean score

    It lies between the mean and the largest score and falls with β. Of n binary scores with share p of ones it is
    β log(1 + p (exp(1/β) − 1)). Computed relative to the largest score, so no exponential overflows, and so that a
    large β loses no digits.

    Args:
        scores: rᵢ, one number per response of the reference policy; NaN where it could not be scored (left out).
        group_ids: Which prompt a response answers; any order, ragged.
        beta: β > 0; infinity gives the mean. It is no switch: 0 is an error.

    Returns:
        V* of its group for every row, without graph; 0 where a group has no score.

    Raises:
        UsageError: If shapes differ, `beta` is not positive, or `group_ids` does not hold integers.

    Example:
        >>> optimal_value(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1]))
        tensor([0.7169, 0.7169, 0.0000, 0.0000])

    References:
        Brantley et al., 2025 (A*-PO). arXiv:2505.20686.
    """
    check_group_tensors("optimal_value", group_ids, scores=scores)
    check_interval("optimal_value", 0.0, ends="(]", beta=beta)
    scored, wide = ~scores.isnan(), at_least_float32(scores)
    if math.isinf(beta):
        return group_mean(wide, group_ids, scored).to(result_dtype(scores))
    largest = group_max(wide, group_ids, scored)
    below = keep(wide - largest, scored)
    excess = beta * group_mean(torch.expm1(below / beta), group_ids, scored).log1p()
    return keep(largest + excess, ~largest.isneginf()).to(result_dtype(scores))


class OptimalValueSource(ValueSource):
    """V* of every training prompt, by its uid. It is filled once and never learns.

    Args:
        samples: Responses to each prompt in the survey.
        beta: β of V*.
        keep: Which prompts are worth drawing.
        cache: File of the survey.
    """

    def __init__(self, *, samples: int, beta: float, keep: str, cache: str | None) -> None:
        super().__init__()
        self.samples, self.beta, self.keep, self.cache = samples, beta, keep, cache
        self._fill({})

    def prepare(self, survey: Survey) -> None:
        """Survey the prompts, unless the table was restored.

        Raises:
            UsageError: If no prompt is worth drawing.
        """
        if not len(self._uids):
            self._fill(survey(samples=self.samples, cache=self.cache))
        self._kept()

    def _fill(self, found: Mapping[int, Sequence[float]]) -> None:
        uids = sorted(found)
        self._uids = check_uids("OptimalValue", torch.tensor(uids, dtype=torch.long))
        rows = torch.arange(len(uids)).repeat_interleave(torch.tensor([len(found[uid]) for uid in uids]).long())
        scores = torch.tensor([score for uid in uids for score in found[uid]], dtype=torch.float64)
        values = optimal_value(scores, rows, beta=self.beta)
        self._values = torch.zeros(len(uids), dtype=torch.float64).scatter(0, rows, values)
        correct = [found.correct[uid] for uid in uids] if isinstance(found, Surveyed) else None
        solved = scores > 0 if correct is None else torch.tensor([one for some in correct for one in some]).bool()
        self._solved = rows[solved].bincount(minlength=len(uids))
        self._scored = rows[~scores.isnan()].bincount(minlength=len(uids))

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with V* of the prompt at every trained token of a response."""
        values = self._values[self._positions(batch.prompt_uids)]
        return batch.replace(values=spread(values.to(batch.rewards), batch.response_mask))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Do nothing, because V* belongs to the policy before training."""

    def priorities(self, uids: Int[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
        """Return 1 for prompts that are kept and 0 for those that are dropped."""
        return self._kept()[self._positions(uids)].float().to(uids.device)

    def _kept(self) -> Bool[Tensor, " entry"]:
        solved = self._solved > 0
        kept = {"all": torch.ones_like(solved), "solved": solved, "mixed": solved & (self._solved < self._scored)}
        if len(solved) and not kept[self.keep].any():
            raise UsageError(
                f"OptimalValue: keep={self.keep!r} drops all {len(solved)} prompts; set keep='all', raise samples, or "
                "take other prompts or another policy."
            )
        return kept[self.keep]

    def _positions(self, uids: Tensor) -> Tensor:
        uids = check_uids("OptimalValue", uids)
        positions, found = find(uids, self._uids)
        if not found.all():
            raise UsageError(
                f"OptimalValue: the prompt of uid {int(uids[~found][0])} is not among the {len(self._uids)} surveyed "
                "ones; the survey covers the training prompts of a new run, so start one after the data has changed."
            )
        return positions

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the table for checkpoints."""
        return {"uids": self._uids, "values": self._values, "solved": self._solved, "scored": self._scored}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the table from a checkpoint."""
        for name in ("uids", "values", "solved", "scored"):
            setattr(self, f"_{name}", state[name].cpu())


@dataclass(frozen=True)
class OptimalValue(ValueSpec):
    """A*-PO's baseline (arXiv:2505.20686): V* of each prompt from responses of the policy before training.

    Args:
        samples: Responses to each training prompt in the survey before training.
        beta: β > 0 of V*: near 0 the best of the samples, infinity their mean.
        keep: Which prompts are drawn: "all", those "solved" at least once in the survey (a correct response), or those
            where it was "mixed" (not all solved either).
        cache: File that keeps the survey; None: one beside the runs, named after policy, prompts and sampling.
    """

    samples: int = 8
    beta: float = 0.5
    keep: Literal["all", "solved", "mixed"] = "all"
    cache: str | None = None
    paper: ClassVar[str] = "2505.20686"

    def __post_init__(self) -> None:
        check_at_least("OptimalValue", 1, samples=self.samples)
        check_interval("OptimalValue", 0.0, ends="(]", beta=self.beta)
        check_choice("OptimalValue", _KEEP, keep=self.keep)

    def check(self, source: object, responses_per_prompt: int) -> None:
        """Accept any policy: the survey draws its own samples."""

    def build(self, source: object, policy: nn.Module | None = None) -> OptimalValueSource:
        """Build an empty table."""
        return OptimalValueSource(samples=self.samples, beta=self.beta, keep=self.keep, cache=self.cache)
