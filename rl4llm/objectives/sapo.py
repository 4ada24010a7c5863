"""SAPO: a smooth gate on the ratio in place of a clip."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import token_ratio


def sapo(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Float[Tensor, "batch time"]:
    """Compute the policy loss with a sigmoid-shaped trust region.

        rₜ = π_θ(yₜ) / π_old(yₜ)        τ = tau_positive where Aₜ > 0, tau_negative elsewhere
        ℓₜ = −(4/τ) σ(τ (rₜ − 1)) Aₜ

        ∂ℓₜ/∂log π_θ(yₜ) = −4 σ (1 − σ) rₜ Aₜ,   σ = σ(τ (rₜ − 1))

    At ratio 1 this is the policy gradient; away from it the gradient fades and never stops. Bad tokens fade sooner.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        tau_positive: Sharpness for tokens with positive advantage, above 0.
        tau_negative: Sharpness for the others, above 0.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a sharpness is not positive.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.9]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.5, 0.3]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> sapo(log_probs, old, torch.ones(1, 2), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-1.0000, -1.2599]])

    References:
        SAPO, 2025. arXiv:2511.20347 (as in the code of frameworks that cite it).
    """
    check_sapo("sapo", tau_positive, tau_negative)
    check_token_tensors("sapo", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    kept = keep(at_least_float32(advantages.detach()), response_mask)
    ratios = token_ratio(log_probs, old_log_probs, response_mask)
    tau = torch.where(kept > 0, torch.full_like(ratios, tau_positive), tau_negative)
    return (-4.0 / tau * torch.sigmoid(tau * (ratios - 1.0)) * kept).to(log_probs.dtype)


def check_sapo(by: str, tau_positive: float, tau_negative: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, float("inf"), "()", tau_positive=tau_positive, tau_negative=tau_negative)


@dataclass(frozen=True)
class SAPO(RatioObjective):
    """Objective of SAPO: a policy loss with a sigmoid-shaped trust region. See [sapo][].

    Args:
        tau_positive: Sharpness for tokens with positive advantage, above 0.
        tau_negative: Sharpness for the others, above 0.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05
    paper: ClassVar[str] = "2511.20347"
    function = staticmethod(sapo)
    check = staticmethod(check_sapo)
