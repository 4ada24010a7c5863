"""Scores minus a constant that is chosen before training."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval, check_ndim
from rl4llm.masked import at_least_float32, keep, result_dtype, spread


@torch.no_grad()
def constant_baseline(scores: Num[Tensor, " batch"], *, baseline: float = 0.0) -> Float[Tensor, " batch"]:
    """Subtract a constant from every score.

        Aᵢ = rᵢ − c

    The baseline is fixed before any response is drawn, so the policy gradient is unbiased; no other response is read.
    It decides which outcomes count as bad: with scores of ±1 and a share p of good responses, objectives that treat the
    signs differently (TOPR) weight positive and negative examples as p(1 − c) : (1 − p)(1 + c), which a baseline that
    follows the group would fix at 1 : 1.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        baseline: c, in units of the score.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If `scores` is no vector or `baseline` is not finite.

    Example:
        >>> constant_baseline(torch.tensor([1.0, -1.0, float("nan")]), baseline=0.5)
        tensor([ 0.5000, -1.5000,  0.0000])

    References:
        Le Roux et al., 2025 (TOPR; the effect of c). arXiv:2503.14286.
    """
    check_ndim("constant_baseline", 1, axes="batch", scores=scores)
    check_interval("constant_baseline", -inf, inf, "()", baseline=baseline)
    advantages = at_least_float32(scores) - baseline
    return keep(advantages, ~scores.isnan()).to(result_dtype(scores))


@dataclass(frozen=True)
class ConstantBaseline(AdvantageEstimator):
    """Advantage estimator that subtracts a constant from the score of a response. See [constant_baseline][].

    It reads the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.

    Args:
        baseline: c, in units of the score.
    """

    baseline: float = 0.0
    paper: ClassVar[str] = "2503.14286"

    def __post_init__(self) -> None:
        check_interval("ConstantBaseline", -inf, inf, "()", baseline=self.baseline)

    @property
    def invariances(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return "homogeneous" if the constant is 0: scaled scores then give scaled advantages."""
        return () if self.baseline else ("homogeneous",)

    def update_scale(self, size: int) -> float:
        """Return 1, because the baseline depends on no response."""
        return 1.0

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        numbers = constant_baseline(batch.outcomes, baseline=self.baseline)
        return Advantages(spread(numbers, batch.scored_mask))
