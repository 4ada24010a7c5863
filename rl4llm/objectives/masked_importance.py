"""SAO's objective: importance weights to the policy that sampled, and no gradient outside of two bounds."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.masked import keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.objectives.reinforce import weighted_reinforce
from rl4llm.ratios import token_ratio


def masked_importance_weighted(
    log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 0.3,
    clip_high: float = 5.0,
) -> Float[Tensor, "batch time"]:
    """Compute the importance-weighted policy-gradient loss, zero for tokens whose ratio left an open interval.

        rₜ = π_θ(yₜ) / μ(yₜ)
        ℓₜ = −sg[rₜ 1(1 − clip_low < rₜ < 1 + clip_high)] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −rₜ 1(1 − clip_low < rₜ < 1 + clip_high) Aₜ

    Unlike PPO's clip it drops a token whatever the sign of its advantage, even one that would move back. The anchor is
    the policy that sampled, as the engine reported it, so one bound covers staleness and the difference between engine
    and trainer, and no π_old is computed. sg stops the gradient, so the value of the loss carries no information.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        rollout_log_probs: log μ(yₜ), as the sampling engine reported them; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        clip_low: Width below 1, in (0, 1]; 1 leaves no lower bound (the paper takes 0.3 for reasoning, 0.8 for coding).
        clip_high: Width above 1, positive: the largest weight is 1 + clip_high (5 for reasoning, 3 for coding).

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a width is outside its range.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[0.9, 0.4, 0.9]]).log().requires_grad_()
        >>> sampled, mask = torch.tensor([[0.6, 0.8, 0.1]]).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> masked_importance_weighted(log_probs, sampled, torch.ones(1, 3), mask).sum().backward()
        >>> log_probs.grad.round(decimals=3)  # ratios 1.5, 0.5 and 9
        tensor([[-1.5000, -0.0000, -0.0000]])

    References:
        Hou et al., 2026 (SAO). arXiv:2607.07508; the equation is that of notes and of a replication.
    """
    check_widths("masked_importance_weighted", clip_low, clip_high)
    check_token_tensors(
        "masked_importance_weighted", response_mask, log_probs=log_probs, rollout_log_probs=rollout_log_probs
    )
    ratios = token_ratio(log_probs, rollout_log_probs, response_mask).detach()
    # Not "inside": an engine without log-probs reports NaN, which must reach the loss instead of counting as dropped.
    outside = (ratios <= 1.0 - clip_low) | (ratios >= 1.0 + clip_high)
    return weighted_reinforce(log_probs, keep(ratios, ~outside), advantages, response_mask)


def check_widths(by: str, clip_low: float, clip_high: float) -> None:
    """Raise unless the open interval holds a ratio of 1 and nothing below 0."""
    check_interval(by, 0.0, 1.0, "(]", clip_low=clip_low)
    check_interval(by, 0.0, ends="(]", clip_high=clip_high)


@dataclass(frozen=True)
class MaskedImportanceWeighted(RatioObjective):
    """Objective of SAO: policy gradient with a two-sided mask. See [masked_importance_weighted][].

    Args:
        clip_low: Width below 1, in (0, 1]; 1 leaves no lower bound.
        clip_high: Width above 1, positive: the largest weight is 1 + clip_high.
    """

    clip_low: float = 0.3
    clip_high: float = 5.0
    anchor: ClassVar[str] = "rollout_log_probs"
    paper: ClassVar[str] = "2607.07508"
    function = staticmethod(masked_importance_weighted)
    check = staticmethod(check_widths)
