"""QAE: the baseline is a quantile of the group's scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors, check_interval
from rl4llm.groups import centred_in_group, group_count, group_max, group_std, position_in_group
from rl4llm.masked import at_least_float32, keep, result_dtype, spread


@torch.no_grad()
def quantile_relative(
    scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], *, k: float = 0.4
) -> Float[Tensor, " batch"]:
    """Subtract a quantile of the group from every score and divide by the group's standard deviation.

        b = inf {v : share of the group's scores ≤ v is at least k}        Aᵢ = (rᵢ − b) / s

    s is the sample standard deviation. With binary scores and success rate p, b is 0 where p ≤ 1 − k (only successes
    get signal) and 1 elsewhere (only failures do). A group of one or of equal scores gets 0.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.
        k: Which quantile, in (0, 1).

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ, k is outside (0, 1), or `group_ids` does not hold integers.

    Example:
        >>> quantile_relative(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0]))
        tensor([2., 0., 0., 0.])

    References:
        QAE, 2025. arXiv:2509.22611.
    """
    check_group_tensors("quantile_relative", group_ids, scores=scores)
    check_interval("quantile_relative", 0.0, 1.0, "()", k=k)
    scored, wide = ~scores.isnan(), at_least_float32(scores)
    centred = centred_in_group(scores, group_ids, scored)
    std = group_std(centred, group_ids, scored)
    order = keep(wide, scored, torch.inf).argsort()
    rank = torch.empty_like(order).scatter(0, order, position_in_group(group_ids[order])) + 1
    # k·n a rounding error above a whole number would ask for one response more.
    enough = scored & (rank >= k * group_count(group_ids, scored).double() * (1 - 1e-9))
    baseline = -group_max(-centred, group_ids, enough)
    return keep((centred - baseline) / torch.where(std > 0, std, 1.0), scored & (std > 0)).to(result_dtype(scores))


@dataclass(frozen=True)
class QuantileRelative(AdvantageEstimator):
    """Advantage estimator of QAE, constant over a response. See [quantile_relative][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.

    Args:
        quantile: Which quantile is the baseline, in (0, 1).
    """

    quantile: float = 0.4
    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    invariances: ClassVar[tuple[str, ...]] = ("shift", "scale")
    paper: ClassVar[str] = "2509.22611"

    def __post_init__(self) -> None:
        check_interval("QuantileRelative", 0.0, 1.0, "()", quantile=self.quantile)

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        return Advantages(
            spread(quantile_relative(batch.outcomes, batch.group_ids, k=self.quantile), batch.scored_mask)
        )
