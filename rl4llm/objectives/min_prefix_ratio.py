"""MinPRO: the ratio of the whole prefix, approximated by its smallest member."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_choice, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.objectives.ppo_clip import check_bounds
from rl4llm.objectives.reinforce import weighted_reinforce
from rl4llm.ratios import tangent_exp, token_log_ratio


def min_prefix_ratio(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
    cap_prefix_at_one: bool = False,
) -> Float[Tensor, "batch time"]:
    """Compute the policy-gradient loss weighted by the ratio of the token and the smallest ratio before it.

        dₜ = log π_θ(yₜ) − log π_old(yₜ)        pₜ = min over trained tokens i < t of dᵢ,  p of the first = 0
        wₜ = clip(exp(pₜ + dₜ), 1 − clip_low, 1 + clip_high)
        ℓₜ = −sg[wₜ] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −wₜ Aₜ

    The exact off-policy weight is the product of all ratios up to t, whose variance grows with length; its smallest
    factor stands in for the prefix. With two tokens the two agree. A weight never depends on later tokens. Masked
    tokens are stepped over. The body of the paper could not be read: the formula is that of an independent reproduction
    with two agreeing notes, the widths are the library's choice (no floor, CISPO's ceiling), and whether the minimum is
    capped at 1 is an option.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        clip_low: Width below 1, in [0, 1]; 1 puts no floor under the weight.
        clip_high: Width above 1, at least 0.
        cap_prefix_at_one: Whether a prefix whose ratios all exceed 1 counts as 1.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a width is outside its range.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5, 0.5]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.5, 1.0, 0.25]]).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> min_prefix_ratio(log_probs, old, torch.ones(1, 3), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-1.0000, -0.5000, -1.0000]])

    References:
        Lei et al., 2026. arXiv:2601.22718 (equation as reproduced by others).
    """
    check_min_prefix_ratio("min_prefix_ratio", clip_low, clip_high, cap_prefix_at_one)
    check_token_tensors(
        "min_prefix_ratio", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    log_ratios = token_log_ratio(at_least_float32(log_probs.detach()), old_log_probs, response_mask)
    smallest = smallest_before(log_ratios, response_mask)
    prefix = smallest.clamp(max=0.0) if cap_prefix_at_one else smallest
    weights = tangent_exp(keep(prefix + log_ratios, response_mask)).clamp(1.0 - clip_low, 1.0 + clip_high)
    return weighted_reinforce(log_probs, weights, advantages, response_mask)


def check_min_prefix_ratio(by: str, clip_low: float, clip_high: float, cap_prefix_at_one: bool) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_bounds(by, clip_low, clip_high)
    check_choice(by, (True, False), cap_prefix_at_one=cap_prefix_at_one)


def smallest_before(x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Return the smallest x over the counted positions before each position; 0 where there are none."""
    so_far = keep(x, mask, torch.inf).cummin(-1).values
    before = torch.nn.functional.pad(so_far, (1, 0), value=torch.inf)[:, : x.shape[-1]]
    return keep(before, before != torch.inf)


@dataclass(frozen=True)
class MinPrefixRatio(RatioObjective):
    """Objective of MinPRO: policy gradient weighted by the smallest earlier ratio. See [min_prefix_ratio][].

    Args:
        clip_low: Width below 1, in [0, 1]; 1 puts no floor under the weight.
        clip_high: Width above 1, at least 0.
        cap_prefix_at_one: Whether a prefix whose ratios all exceed 1 counts as 1.
    """

    clip_low: float = 1.0
    clip_high: float = 4.0
    cap_prefix_at_one: bool = False
    paper: ClassVar[str] = "2601.22718"
    function = staticmethod(min_prefix_ratio)
    check = staticmethod(check_min_prefix_ratio)
