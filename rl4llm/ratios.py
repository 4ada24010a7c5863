"""How much likelier the policy makes a token than the policy that sampled it: the ratios of all objectives."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_given, check_token_tensors
from rl4llm.clamping import inclusive_clamp
from rl4llm.masked import at_least_float32, keep

MAX_LOG_RATIO = 20.0


def token_log_ratio(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Log-ratio of each token between the policy and an older or other one.

        dₜ = log π_θ(yₜ) − log π_old(yₜ)

    Gradient flows to `log_probs` only. Computed in float32 or wider and never clamped.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ); a constant.
        response_mask: True at trained tokens; the two are read only there.

    Returns:
        dₜ in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> token_log_ratio(torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[-1.5, -2.0, 0.0]]), mask)
        tensor([[0.5000, 0.0000, 0.0000]])
    """
    check_token_tensors("token_log_ratio", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    return masked_log_ratio(log_probs, old_log_probs, response_mask).to(log_probs.dtype)


def token_ratio(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Ratio of each token between the policy and an older or other one, always finite and never without gradient.

        rₜ = exp dₜ        (beyond d = 20 its tangent there, e²⁰ (1 + d − 20): see [tangent_exp][])

    Arguments and errors as in [token_log_ratio][]; in float32 or wider, 1 where `response_mask` is False.

    Example:
        >>> token_ratio(torch.tensor([[-1.0, 9.0]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([[True, False]]))
        tensor([[1., 1.]])
    """
    check_token_tensors("token_ratio", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    return tangent_exp(masked_log_ratio(log_probs, old_log_probs, response_mask))


def masked_log_ratio(log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor) -> Tensor:
    """Compute [token_log_ratio][] in float32 or wider, for callers that have checked its arguments."""
    new = keep(at_least_float32(log_probs), response_mask)
    return new - keep(at_least_float32(old_log_probs.detach()), response_mask)


def tangent_exp(x: Float[Tensor, "*axes"], *, minus_one: bool = False) -> Float[Tensor, "*axes"]:
    """Exponential, continued by its tangent above x = 20 so that neither value nor slope overflows or vanishes.

        eˣ   if x ≤ 20,      e²⁰ (1 + x − 20)   if x > 20

    Clamping x instead would drop the gradient of the tokens that are furthest off. Here the slope is eˣ up to the
    bound and e²⁰ beyond it, so a token further off never pulls less. Exact for every ratio below 4.8e8.

    Args:
        x: A log-ratio, in float32 or wider.
        minus_one: Whether to give exp x − 1, without rounding for small x.

    Returns:
        The exponential, in the dtype of x.

    Example:
        >>> tangent_exp(torch.tensor([0.0, 21.0])) / torch.tensor([1.0, 4.8516520e8])
        tensor([1., 2.])
    """
    check_given("tangent_exp", x=x)
    exp = torch.expm1 if minus_one else torch.exp
    return exp(inclusive_clamp(x, high=MAX_LOG_RATIO)) + math.exp(MAX_LOG_RATIO) * torch.relu(x - MAX_LOG_RATIO)
