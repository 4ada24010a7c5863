"""SoLS: successes are learned without a bound, failures only near the policy that sampled them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import token_ratio


def sols(
    log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip: float = 0.2,
) -> Float[Tensor, "batch time"]:
    """Compute an importance-weighted policy loss that uses failures only near the policy that sampled them.

        ρₜ = π_θ(yₜ) / μ(yₜ)        mₜ = 1 if Aₜ > 0 or |ρₜ − 1| ≤ clip, else 0
        ℓₜ = −mₜ ρₜ Aₜ

        ∂ℓₜ/∂log π_θ(yₜ) = −mₜ ρₜ Aₜ

    Good tokens are never clipped; bad ones are dropped on both sides of the band, where PPO drops them only below it.
    The paper's ratio is that of a whole short action; per token is the reading for long responses.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        rollout_log_probs: log μ(yₜ), as the sampling engine reported them; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        clip: Half-width of the band for tokens with advantage at most 0, at least 0.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the width is negative.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.9, 0.3]]).log().requires_grad_()
        >>> behaviour, mask = torch.full((1, 3), 0.3).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> sols(log_probs, behaviour, torch.tensor([[1.0, -1.0, -1.0]]), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-3.,  0.,  1.]])

    References:
        Succeed or Learn Slowly, 2025. arXiv:2509.01720 (equation as noted by a third party).
    """
    check_sols("sols", clip)
    check_token_tensors(
        "sols", response_mask, log_probs=log_probs, rollout_log_probs=rollout_log_probs, advantages=advantages
    )
    kept = keep(at_least_float32(advantages.detach()), response_mask)
    ratios = token_ratio(log_probs, rollout_log_probs, response_mask)
    near = (ratios.detach() - 1.0).abs() <= clip
    return (-torch.where((kept > 0) | near, ratios, 0.0) * kept).to(log_probs.dtype)


def check_sols(by: str, clip: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, clip=clip)


@dataclass(frozen=True)
class SoLS(RatioObjective):
    """Objective of SoLS: a policy loss that learns slowly from failures. See [sols][].

    Args:
        clip: Half-width of the band for tokens with advantage at most 0, at least 0.
    """

    clip: float = 0.2
    paper: ClassVar[str] = "2509.01720"
    anchor: ClassVar[str] = "rollout_log_probs"
    function = staticmethod(sols)
    check = staticmethod(check_sols)
