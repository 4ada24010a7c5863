"""OPO: the baseline of least variance if the squared gradient norm grows with the length of a response."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors
from rl4llm.groups import centred_in_group, group_sum, varies_in_group
from rl4llm.masked import at_least_float32, keep, result_dtype, spread


@torch.no_grad()
def optimal_baseline(
    scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], lengths: Num[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Subtract the length-weighted mean of the group from every score.

        b = Σⱼ lⱼ rⱼ / Σⱼ lⱼ        Aᵢ = rᵢ − b

    With equal lengths this is the mean baseline. Σ lᵢ Aᵢ = 0 in every group. An empty response has no weight; a group
    of empty responses, of one response or of equal scores gets 0.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.
        lengths: lᵢ, trained tokens of each response.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ, or `group_ids` does not hold integers.

    Example:
        >>> optimal_baseline(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([3, 1]))
        tensor([ 0.2500, -0.7500])

    References:
        OPO, 2025. arXiv:2505.23585.
    """
    check_group_tensors("optimal_baseline", group_ids, scores=scores, lengths=lengths)
    scored = ~scores.isnan()
    centred = centred_in_group(scores, group_ids, scored)
    weights = at_least_float32(lengths).to(centred.dtype)
    total = group_sum(weights, group_ids, scored)
    baseline = group_sum(weights * centred, group_ids, scored) / torch.where(total > 0, total, 1.0)
    varies = varies_in_group(at_least_float32(scores), group_ids, scored) & (total > 0)
    return keep(centred - baseline, varies).to(result_dtype(scores))


@dataclass(frozen=True)
class OptimalBaseline(AdvantageEstimator):
    """Advantage estimator of OPO, constant over a response. See [optimal_baseline][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.
    """

    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    invariances: ClassVar[tuple[str, ...]] = ("shift", "homogeneous")
    paper: ClassVar[str] = "2505.23585"

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        return Advantages(spread(optimal_baseline(batch.outcomes, batch.group_ids, batch.lengths), batch.scored_mask))
