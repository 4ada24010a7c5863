"""Values as quantiles of the return: their loss, and their spread."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import UsageError, check_device, check_interval, check_ndim, check_token_tensors
from rl4llm.critic_values import critic_std
from rl4llm.masked import at_least_float32, keep


def quantile_loss(
    quantiles: Float[Tensor, "batch time quantile"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    kappa: float = 0.01,
) -> Float[Tensor, "batch time"]:
    """Compute the asymmetric Huber error of N quantiles of the return.

        lₜ = (1/N) Σᵢ |τᵢ − 1{uᵢ < 0}| Hκ(uᵢ)/κ        uᵢ = Rₜ − zₜᵢ        τᵢ = (2i − 1)/2N,  i = 1, ..., N
        Hκ(u) = u²/2 where |u| ≤ κ, κ (|u| − κ/2) beyond

    As κ → 0 zᵢ becomes the τᵢ-quantile of the return given the state, and their mean the expected return; one
    quantile is the median. Each output keeps its τ, whatever the order of their values. Gradient flows through
    `quantiles` only. Computed in float32 or wider.

    κ is in units of the return and must be small against their range. From κ = range on, every error is in the
    quadratic part, and the outputs are expectiles, not quantiles: with one output that is the mean, but with many
    their mean is drawn to the middle of the range. For returns 1 with probability 0.1 and 0 otherwise, κ = 1 and 32
    outputs have the mean 0.18.

    Args:
        quantiles: zₜᵢ, t in [0, T), with gradient. Read only where `response_mask` is True.
        returns: Rₜ, the targets. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        kappa: κ > 0, where the error turns from quadratic to linear.

    Returns:
        The loss in the dtype of `quantiles`, 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, there is no quantile, or κ is not positive and finite.

    Example:
        >>> quantiles, mask = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[True]])
        >>> quantile_loss(quantiles, torch.tensor([[1.0]]), mask, kappa=0.5)  # ½ (¼ (1 − ¼) + 0)
        tensor([[0.0938]])

    References:
        Dabney et al., 2018. arXiv:1710.10044.
    """
    _check("quantile_loss", quantiles)
    check_token_tensors("quantile_loss", response_mask, returns=returns)
    check_interval("quantile_loss", 0.0, math.inf, "()", kappa=kappa)
    check_device("quantile_loss", response_mask=response_mask, quantiles=quantiles)
    if quantiles.shape[:2] != response_mask.shape:
        raise UsageError(
            f"quantile_loss: quantiles has shape {tuple(quantiles.shape)}, response_mask "
            f"{tuple(response_mask.shape)}; expected (*response_mask.shape, quantiles)."
        )
    z = keep(at_least_float32(quantiles), response_mask[..., None].expand(quantiles.shape))
    u = keep(at_least_float32(returns.detach()), response_mask)[..., None] - z
    count = quantiles.shape[-1]
    tau = (torch.arange(count, dtype=u.dtype, device=u.device) + 0.5) / count
    size = u.abs()
    huber = torch.where(size <= kappa, u.square() / (2 * kappa), size - kappa / 2)  # over κ
    return keep(((tau - (u < 0).to(u.dtype)).abs() * huber).mean(-1), response_mask).to(quantiles.dtype)


def quantile_spread(quantiles: Float[Tensor, "batch time quantile"]) -> Float[Tensor, "batch time"]:
    """Compute the population standard deviation of the quantiles of one value.

        σₜ = √( 1/N Σᵢ (zₜᵢ − z̄ₜ)² )

    The spread of the return itself, as far as the quantiles know it; [critic_std][rl4llm.critic_values.critic_std] is
    what critics do not know. For returns of 0 and 1 it is √(V(1 − V)) up to the grid of τ, so it says nothing
    that V does not. Pointwise, without gradient, in float32 or wider; the order of the quantiles does not matter.

    Args:
        quantiles: zₜᵢ, t in [0, T).

    Returns:
        The spread in the dtype of `quantiles`, exactly 0 where all are equal; masked positions are to be ignored
        downstream.

    Raises:
        UsageError: If there are not three axes, or there is no quantile.

    Example:
        >>> quantile_spread(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))
        tensor([[0.5000]])

    References:
        Dabney et al., 2018. arXiv:1710.10044.
    """
    _check("quantile_spread", quantiles)
    return critic_std(rearrange(quantiles, "batch time quantile -> quantile batch time"))


def _check(by: str, quantiles: Tensor) -> None:
    check_ndim(by, 3, axes="batch time quantile", quantiles=quantiles)
    if quantiles.shape[-1] == 0:
        raise UsageError(f"{by}: quantiles has shape {tuple(quantiles.shape)}; there must be at least 1 quantile.")
