"""Leave-one-out advantages (RLOO): the baseline is the mean score of the other responses."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors
from rl4llm.groups import centred_in_group, group_count
from rl4llm.masked import result_dtype, spread


@torch.no_grad()
def leave_one_out(scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Subtract the mean score of the other responses of the group from every score.

        Aᵢ = rᵢ − 1/(n−1) Σ_{j≠i} rⱼ = n/(n−1) (rᵢ − r̄)

    The baseline does not depend on response i, so the policy gradient stays unbiased. A score of NaN (could not be
    scored) enters neither mean nor n and gets 0; so does the only scored member of a group.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.

    Returns:
        One advantage a response, without graph; the sum over a group is 0.

    Raises:
        UsageError: If shapes differ or `group_ids` does not hold integers.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 0.0, 0.5, 7.0]), torch.tensor([3, 3, 3, 8]))
        tensor([ 0.7500, -0.7500, 0.0000, 0.0000])

    References:
        Ahmadian et al., 2024 (RLOO). arXiv:2402.14740.
    """
    check_group_tensors("leave_one_out", group_ids, scores=scores)
    scored = ~scores.isnan()
    centred = centred_in_group(scores, group_ids, scored)
    count = group_count(group_ids, scored).to(centred.dtype)
    return (centred * count / (count - 1).clamp(min=1)).to(result_dtype(scores))


@dataclass(frozen=True)
class LeaveOneOut(AdvantageEstimator):
    """Advantage estimator of RLOO, constant over a response. See [leave_one_out][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.
    """

    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    invariances: ClassVar[tuple[str, ...]] = ("shift", "homogeneous")
    paper: ClassVar[str] = "2402.14740"

    def update_scale(self, size: int) -> float:
        """Return 1, because the baseline does not depend on the response."""
        return 1.0

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        return Advantages(spread(leave_one_out(batch.outcomes, batch.group_ids), batch.scored_mask))
