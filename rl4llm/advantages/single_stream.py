"""Scores against a baseline known before the response: a tracker's value, V*, or the score of a greedy response."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_ndim, check_same_shape
from rl4llm.masked import at_least_float32, keep, masked_sum, result_dtype, spread


@torch.no_grad()
def tracker_advantages(scores: Num[Tensor, " batch"], baselines: Num[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Subtract a baseline of the prompt that does not depend on the scores.

        Aᵢ = rᵢ − bᵢ

    Unbiased with any b that was fixed before the response was drawn: the tracked v̂ from before this observation (SPO),
    V* of a table (A*-PO), or the score of a greedy response (ReMax). No other response is read.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        baselines: bᵢ, one number per response; not read where the score is NaN.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ.

    Example:
        >>> tracker_advantages(torch.tensor([1.0, 0.0, float("nan")]), torch.tensor([0.75, 0.75, 0.75]))
        tensor([ 0.2500, -0.7500,  0.0000])

    References:
        Xu and Ding, 2025 (SPO). arXiv:2509.13232, eq. 8.
        Li et al., 2023 (ReMax). arXiv:2310.10505.
    """
    check_ndim("tracker_advantages", 1, axes="batch", scores=scores)
    check_same_shape("tracker_advantages", remedy="pass one baseline a response", scores=scores, baselines=baselines)
    advantages = at_least_float32(scores) - at_least_float32(baselines)
    return keep(advantages, ~scores.isnan()).to(result_dtype(scores, baselines))


@dataclass(frozen=True)
class SingleStream(AdvantageEstimator):
    """Advantage estimator for single responses: score minus the prompt's value. See [tracker_advantages][].

    The baseline is `values` at the first trained token; the score is the batch's `outcomes`, scores plus per-token
    shaping. Responses that could not be scored get 0. SPO whitens the result over responses.
    """

    reads: ClassVar[tuple[str, ...]] = ("values",)
    paper: ClassVar[str] = ""  # the value source names the paper: SPO, ReMax and A*-PO share this difference

    def update_scale(self, size: int) -> float:
        """Return 1, because the baseline does not depend on the response."""
        return 1.0

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        (values,) = self.take(batch)
        first = batch.response_mask & (batch.response_mask.cumsum(-1) == 1)
        baselines = masked_sum(values, first, dim=-1).to(values.dtype)
        return Advantages(spread(tracker_advantages(batch.outcomes, baselines), batch.scored_mask))
