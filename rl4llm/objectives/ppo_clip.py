"""PPO's clipped objective, with separate bounds and an optional second bound for bad tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.clamping import inclusive_clamp
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import token_ratio


def ppo_clip(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Float[Tensor, "batch time"]:
    """Compute the clipped importance-weighted policy loss.

        rₜ = π_θ(yₜ) / π_old(yₜ)
        ℓₜ = −min(rₜ Aₜ, clip(rₜ, 1 − clip_low, 1 + clip_high) Aₜ)
        ℓₜ ← min(ℓₜ, −dual_clip · Aₜ)   where Aₜ < 0 and dual_clip is given

        ∂ℓₜ/∂log π_θ(yₜ) = 0 if (Aₜ > 0 and rₜ > 1 + clip_high) or (Aₜ < 0 and (rₜ < 1 − clip_low or rₜ > dual_clip))
                           −rₜ Aₜ otherwise

    A token is dropped only when it has already moved past a bound in the direction that its advantage asks for (or,
    with `dual_clip`, when a bad token has become far likelier); a token that would move back always has gradient.
    Gradient flows to `log_probs` only. The ratio is continued by its tangent above e²⁰, see [tangent_exp][], so without
    `dual_clip` a bad token that ran away keeps a finite gradient that moves it back.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        clip_low: Width below 1, in [0, 1].
        clip_high: Width above 1, at least 0.
        dual_clip: Bound on the ratio of tokens with negative advantage, above 1; none when None.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a bound is outside its range.

    Example:
        >>> log_probs, mask = torch.tensor([[0.5, 0.5, 0.25]]).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> ppo_clip(log_probs, torch.full((1, 3), 0.25).log(), torch.tensor([[1.0, -1.0, 1.0]]), mask, clip_high=0.5)
        tensor([[-1.5000,  2.0000, -1.0000]])

    References:
        Schulman et al., 2017. arXiv:1707.06347, eq. 7.
        Ye et al., 2019 (dual clip). arXiv:1912.09729, eq. 5.
        Yu et al., 2025 (separate bounds). arXiv:2503.14476, eq. 8.
    """
    check_bounds("ppo_clip", clip_low, clip_high, dual_clip)
    check_token_tensors(
        "ppo_clip", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    costs = keep(-at_least_float32(advantages.detach()), response_mask)
    ratios = token_ratio(log_probs, old_log_probs, response_mask)
    losses = torch.maximum(ratios * costs, inclusive_clamp(ratios, 1.0 - clip_low, 1.0 + clip_high) * costs)
    if dual_clip is not None:
        losses = torch.where(costs > 0, torch.minimum(losses, dual_clip * costs), losses)
    return losses.to(log_probs.dtype)


def check_bounds(by: str, clip_low: float, clip_high: float, dual_clip: float | None = None) -> None:
    """Raise unless the widths keep a ratio positive and the bound on bad tokens lies above 1."""
    check_interval(by, 0.0, 1.0, clip_low=clip_low)
    check_interval(by, 0.0, clip_high=clip_high)
    check_interval(by, 1.0, ends="(]", dual_clip=dual_clip)


@dataclass(frozen=True)
class PPOClip(RatioObjective):
    """Objective of PPO: the clipped importance-weighted loss. See [ppo_clip][].

    Args:
        clip_low: Width below 1, in [0, 1].
        clip_high: Width above 1, at least 0.
        dual_clip: Bound on the ratio of tokens with negative advantage, above 1; none when None.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    paper: ClassVar[str] = "1707.06347"
    function = staticmethod(ppo_clip)
    check = staticmethod(check_bounds)
