"""CoRPO: the baseline is the mean of the group, but at least the score that counts as correct."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors, check_interval
from rl4llm.groups import centred_in_group, group_mean
from rl4llm.masked import at_least_float32, keep, result_dtype, spread


@torch.no_grad()
def correctness_relative(
    scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], *, min_correct: float = 0.0
) -> Float[Tensor, " batch"]:
    """Subtract the larger of the group's mean and a fixed pass mark from every score.

        b = max(min_correct, r̄)        Aᵢ = rᵢ − b

    While a group fails on average, the pass mark is the baseline and no failed response is reinforced for being less
    bad than its siblings; once the mean reaches it, this is the mean baseline (Dr. GRPO). A group that fails with equal
    scores is pushed down, and so is a single failed response: this is intended by the method and not a degenerate case.
    There is no division by the standard deviation, which would undo the construction. The formula follows several
    independent implementations that agree, because the method section of the paper could not be read.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.
        min_correct: The lowest score that counts as correct.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ, `min_correct` is not finite, or `group_ids` does not hold integers.

    Example:
        >>> correctness_relative(torch.tensor([-1.0, -0.5, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
        tensor([-1.0000, -0.5000, 0.0000, 0.0000])

    References:
        Garg et al., 2025 (CoRPO). arXiv:2511.04439 (eq. 11 as cited by implementers).
    """
    check_group_tensors("correctness_relative", group_ids, scores=scores)
    check_interval("correctness_relative", ends="()", min_correct=min_correct)
    scored, wide = ~scores.isnan(), at_least_float32(scores)
    fails = _group_fails(wide, group_ids, min_correct)
    advantages = torch.where(fails, wide - min_correct, centred_in_group(scores, group_ids, scored))
    return keep(advantages, scored).to(result_dtype(scores))


def _group_fails(scores: Tensor, group_ids: Tensor, min_correct: float) -> Bool[Tensor, " batch"]:
    """Return whether the pass mark is the baseline, because the mean of the group is below it."""
    return group_mean(scores, group_ids, ~scores.isnan()) < min_correct


@dataclass(frozen=True)
class CorrectnessRelative(AdvantageEstimator):
    """Advantage estimator of CoRPO, constant over a response. See [correctness_relative][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.

    Args:
        min_correct: The lowest score that counts as correct.
    """

    min_correct: float = 0.0
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    paper: ClassVar[str] = "2511.04439"

    def __post_init__(self) -> None:
        check_interval("CorrectnessRelative", ends="()", min_correct=self.min_correct)

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        return Advantages(
            spread(
                correctness_relative(batch.outcomes, batch.group_ids, min_correct=self.min_correct), batch.scored_mask
            )
        )

    def diagnostics(self, batch: RolloutBatch) -> Mapping[str, Tensor]:
        """Return `floor_share`: for each scored response, 1 if the pass mark was its baseline, else 0."""
        scored = ~batch.scores.isnan()
        fails = _group_fails(batch.outcomes, batch.group_ids, self.min_correct)
        return {"floor_share": fails[scored].float()}
