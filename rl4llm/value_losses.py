"""Errors of a value at each token: squared, squared and clipped around the old value, or binary cross-entropy."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import UsageError, check_interval, check_token_tensors
from rl4llm.clamping import inclusive_clamp
from rl4llm.masked import at_least_float32, keep

_ROUNDING = 1e-3  # how far beyond [0, 1] a return may lie by rounding


def value_loss(
    values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Squared error of the value, per token.

        lₜ = (V(sₜ) − Rₜ)²

    No factor ½. Gradient flows through `values` only; `returns` are constants. Computed in float32 or wider.

    Args:
        values: V(sₜ), t in [0, T), with gradient. Read only where `response_mask` is True.
        returns: Rₜ, the targets. Read only where `response_mask` is True.
        response_mask: True at trained tokens.

    Returns:
        The loss in the dtype of `values`, 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> value_loss(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[True, False]]))
        tensor([[4., 0.]])

    References:
        Schulman et al., 2017. arXiv:1707.06347, eq. 9. Liu et al., 2025. arXiv:2510.01656.
    """
    check_token_tensors("value_loss", response_mask, values=values, returns=returns)
    error = _trained(values, response_mask) - _trained(returns.detach(), response_mask)
    return error.square().to(values.dtype)


def clipped_value_loss(
    values: Float[Tensor, "batch time"],
    old_values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip: float = 0.2,
) -> Float[Tensor, "batch time"]:
    """Squared error that stops rewarding a value for moving more than `clip` away from where it was.

        lₜ = max( (V(sₜ) − Rₜ)², (V'ₜ − Rₜ)² )          V'ₜ = clip(V(sₜ), V_old(sₜ) − clip, V_old(sₜ) + clip)

    The gradient is 2 (V − R) unless V has left the interval *and* left it towards R, where it is 0. Gradient flows
    through `values` only. clip → ∞ gives [value_loss][]. Computed in float32 or wider.

    Args:
        values: V(sₜ), t in [0, T), with gradient. Read only where `response_mask` is True.
        old_values: V_old(sₜ), the values before the update. Read only where `response_mask` is True.
        returns: Rₜ, the targets. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        clip: Half the width of the interval, in units of the return; positive.

    Returns:
        The loss in the dtype of `values`, 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or `clip` is not positive.

    Example:
        >>> old, target = torch.zeros(1, 2), torch.ones(1, 2)
        >>> clipped_value_loss(torch.tensor([[0.1, 0.5]]), old, target, torch.ones(1, 2, dtype=torch.bool))
        tensor([[0.8100, 0.6400]])

    References:
        Engstrom et al., 2020. arXiv:2005.12729, section 3 (value function clipping).
    """
    check_token_tensors("clipped_value_loss", response_mask, values=values, old_values=old_values, returns=returns)
    check_interval("clipped_value_loss", 0.0, ends="(]", clip=clip)
    value, target = _trained(values, response_mask), _trained(returns.detach(), response_mask)
    old = _trained(old_values.detach(), response_mask)
    clipped = inclusive_clamp(value, old - clip, old + clip)
    return torch.maximum((value - target).square(), (clipped - target).square()).to(values.dtype)


def binary_value_loss(
    logits: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Cross-entropy between a value that is a probability and the return.

        lₜ = −Rₜ log σ(zₜ) − (1 − Rₜ) log(1 − σ(zₜ))        V(sₜ) = σ(zₜ)        ∂lₜ/∂zₜ = V(sₜ) − Rₜ

    Over many returns it is smallest at V = mean R, as the squared error is, but a value that is wrong and sure of it
    is pulled as hard as any other: the squared error of a sigmoid has the further factor 2 V (1 − V). Gradient flows
    through `logits` only. Computed in float32 or wider.

    Args:
        logits: zₜ, t in [0, T), with gradient. Read only where `response_mask` is True.
        returns: Rₜ in [0, 1], the targets; rounding beyond the ends is cut off. Read only where `response_mask` is
            True.
        response_mask: True at trained tokens.

    Returns:
        The loss in the dtype of `logits`, 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a trained return lies outside [0, 1].

    Example:
        >>> logits, returns = torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, 0.0]])
        >>> binary_value_loss(logits, returns, torch.tensor([[True, False]]))
        tensor([[0.6931, 0.0000]])

    References:
        Wang et al., 2026. arXiv:2604.08865.
    """
    check_token_tensors("binary_value_loss", response_mask, logits=logits, returns=returns)
    target = keep(at_least_float32(returns.detach()), response_mask, 0.5)
    inside = (target >= -_ROUNDING) & (target <= 1 + _ROUNDING)
    if not inside.all():
        raise UsageError(
            f"binary_value_loss: returns must lie in [0, 1], got {target[~inside][0]:g}; map the scores to [0, 1], or "
            "take a head whose values are unbounded."
        )
    z = _trained(logits, response_mask)
    loss = F.binary_cross_entropy_with_logits(z, target.clamp(0, 1).to(z.dtype), reduction="none")
    return keep(loss, response_mask).to(logits.dtype)


def _trained(x: Tensor, response_mask: Tensor) -> Tensor:
    return keep(at_least_float32(x), response_mask)
