"""R²VPO's penalty form: the variance of the ratio is penalized instead of clipped."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import token_ratio


def ratio_variance(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    multiplier: float = 0.04,
) -> Float[Tensor, "batch time"]:
    """Compute the importance-weighted policy loss plus a penalty on the squared deviation of the ratio from 1.

        rₜ = π_θ(yₜ) / π_old(yₜ)
        ℓₜ = −rₜ Aₜ + λ (rₜ − 1)²,   λ = multiplier

        ∂ℓₜ/∂log π_θ(yₜ) = −rₜ (Aₜ − 2λ (rₜ − 1))

    Under the sampling policy E[r] = 1, so E[(r − 1)²] is the variance of the ratio and the χ² divergence. The gradient
    vanishes at r = 1 + A/2λ and pulls back beyond; at λ = 0 this is the importance-weighted loss. The paper's equations
    could not be read: constraint and Lagrangian follow from its abstract, and the fixed multiplier follows other code.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        multiplier: λ, at least 0.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the multiplier is negative.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[0.5, 0.9]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.5, 0.3]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> ratio_variance(log_probs, old, torch.ones(1, 2), mask, multiplier=0.5).sum().backward()
        >>> log_probs.grad
        tensor([[-1.,  3.]])

    References:
        Luo et al., 2026. arXiv:2601.03320 (penalty form inferred).
    """
    check_ratio_variance("ratio_variance", multiplier)
    check_token_tensors(
        "ratio_variance", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    kept = keep(at_least_float32(advantages.detach()), response_mask)
    ratios = token_ratio(log_probs, old_log_probs, response_mask)
    return (multiplier * (ratios - 1.0) ** 2 - ratios * kept).to(log_probs.dtype)


def check_ratio_variance(by: str, multiplier: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, float("inf"), "[)", multiplier=multiplier)


@dataclass(frozen=True)
class RatioVariance(RatioObjective):
    """Objective of R²VPO: a policy loss with a penalty on the variance of the ratio. See [ratio_variance][].

    Args:
        multiplier: λ, at least 0.
    """

    multiplier: float = 0.04
    paper: ClassVar[str] = "2601.03320"
    function = staticmethod(ratio_variance)
    check = staticmethod(check_ratio_variance)
