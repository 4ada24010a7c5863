"""CISPO: every token keeps its gradient, weighted by a clipped ratio."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.objectives.base import RatioObjective
from rl4llm.objectives.ppo_clip import check_bounds
from rl4llm.objectives.reinforce import weighted_reinforce
from rl4llm.ratios import token_ratio


def cispo(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> Float[Tensor, "batch time"]:
    """Compute the policy-gradient loss weighted by the clipped importance ratio.

        rₜ = π_θ(yₜ) / π_old(yₜ)
        ℓₜ = −sg[clip(rₜ, 1 − clip_low, 1 + clip_high)] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −clip(rₜ, 1 − clip_low, 1 + clip_high) Aₜ

    The weight is bounded and no token is dropped: unlike PPO's clip, which is a mask. sg stops the gradient, so the
    value of the loss carries no information; only its gradient matters.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        clip_low: Width below 1, in [0, 1]; 1 puts no floor under the weight.
        clip_high: Width above 1, at least 0: the largest weight is 1 + clip_high.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a width is outside its range.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[0.9, 0.9]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.9, 0.1]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> cispo(log_probs, old, torch.ones(1, 2), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-1., -5.]])

    References:
        MiniMax-M1, 2025. arXiv:2506.13585; insensitivity to the ceiling: ScaleRL, 2025. arXiv:2510.13786.
    """
    check_bounds("cispo", clip_low, clip_high)
    check_token_tensors("cispo", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    ratios = token_ratio(log_probs, old_log_probs, response_mask).detach()
    weights = ratios.clamp(1.0 - clip_low, 1.0 + clip_high)
    return weighted_reinforce(log_probs, weights, advantages, response_mask)


@dataclass(frozen=True)
class CISPO(RatioObjective):
    """Objective of CISPO: policy gradient weighted by the clipped ratio. See [cispo][].

    Args:
        clip_low: Width below 1, in [0, 1]; 1 puts no floor under the weight.
        clip_high: Width above 1, at least 0: the largest weight is 1 + clip_high.
    """

    clip_low: float = 1.0
    clip_high: float = 4.0
    paper: ClassVar[str] = "2506.13585"
    function = staticmethod(cispo)
    check = staticmethod(check_bounds)
