"""Values as a distribution over bins: cross-entropy to a Gaussian around the return, and the mean of the bins."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import (
    UsageError,
    check_choice,
    check_device,
    check_interval,
    check_ndim,
    check_range,
    check_token_tensors,
)
from rl4llm.masked import at_least_float32, keep

Target = Literal["mass", "density"]
TARGETS = get_args(Target)


def hl_gauss_loss(
    logits: Float[Tensor, "batch time bin"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    low: float = -0.1,
    high: float = 1.1,
    sigma: float = 0.02,
    target: Target = "mass",
) -> Float[Tensor, "batch time"]:
    """Compute the cross-entropy between a histogram of the value and a Gaussian around the return (HL-Gauss).

        lₜ = −Σₖ pₖ log softmax(zₜ)ₖ        Σₖ pₖ = 1
        pₖ ∝ Φ((eₖ₊₁ − Rₜ)/σ) − Φ((eₖ − Rₜ)/σ)        (target "mass")
        pₖ ∝ exp(−(cₖ − Rₜ)²/2σ²),  cₖ = (eₖ + eₖ₊₁)/2    (target "density")

    e₀ = low, ..., e_K = high are the edges of K bins of equal width. ∂lₜ/∂zₜ = softmax(zₜ) − p; gradient flows through
    `logits` only. The support should reach some σ beyond the returns on both sides, or the mean of p is drawn
    inwards at the ends; a return outside it counts as the nearer end. The two targets agree where σ is wide against
    a bin; where it is narrow, both become one bin, the one that holds the return. The first formula is that of many
    implementations, the second that of a critic of language models.

    Args:
        logits: zₜ, t in [0, T), with gradient. Read only where `response_mask` is True.
        returns: Rₜ, the targets. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        low: Lower end of the support.
        high: Upper end of the support.
        sigma: σ > 0; about three quarters of a bin are common.
        target: Whether a bin's share is the Gaussian's mass within it ("mass") or its density at the bin's centre
            ("density").

    Returns:
        The loss in the dtype of `logits`, 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, there are fewer than 2 bins, or an option is outside its
            domain.

    Example:
        >>> logits, mask = torch.zeros(1, 1, 4), torch.tensor([[True]])
        >>> hl_gauss_loss(logits, torch.tensor([[0.5]]), mask)  # −log ¼
        tensor([[1.3863]])

    References:
        Imani and White, 2018. arXiv:1806.04613. Farebrother et al., 2024. arXiv:2403.03950. Zhou et al., 2026.
        arXiv:2608.02181 (density).
    """
    _check("hl_gauss_loss", logits, low, high)
    check_token_tensors("hl_gauss_loss", response_mask, returns=returns)
    check_interval("hl_gauss_loss", 0.0, math.inf, "()", sigma=sigma)
    check_choice("hl_gauss_loss", TARGETS, target=target)
    check_device("hl_gauss_loss", response_mask=response_mask, logits=logits)
    if logits.shape[:2] != response_mask.shape:
        raise UsageError(
            f"hl_gauss_loss: logits has shape {tuple(logits.shape)}, response_mask {tuple(response_mask.shape)}; "
            "expected (*response_mask.shape, bins)."
        )
    wide = keep(at_least_float32(logits), response_mask[..., None].expand(logits.shape))
    centre = keep(at_least_float32(returns.detach()), response_mask, low).clamp(low, high)
    edges = torch.linspace(low, high, logits.shape[-1] + 1, dtype=centre.dtype, device=centre.device)
    p = (_mass if target == "mass" else _density)(edges, centre[..., None], sigma)
    return keep(-(p * wide.log_softmax(-1)).sum(-1), response_mask).to(logits.dtype)


def hl_gauss_value(
    logits: Float[Tensor, "batch time bin"], *, low: float = -0.1, high: float = 1.1
) -> Float[Tensor, "batch time"]:
    """The value that a histogram stands for: the mean of its bins' midpoints.

        V(sₜ) = Σₖ softmax(zₜ)ₖ (eₖ + eₖ₊₁)/2

    e₀ = low, ..., e_K = high as in [hl_gauss_loss][rl4llm.critics.hl_gauss.hl_gauss_loss]. Pointwise over tokens:
    a masked position holds whatever its logits say, to be ignored downstream. Computed in float32 or wider.

    Args:
        logits: zₜ, t in [0, T).
        low: Lower end of the support.
        high: Upper end of the support.

    Returns:
        V in the dtype of `logits`, with gradient.

    Raises:
        UsageError: If there are not three axes, fewer than 2 bins, or the support is empty.

    Example:
        >>> hl_gauss_value(torch.zeros(1, 1, 4), low=0.0, high=1.0)
        tensor([[0.5000]])

    References:
        Imani and White, 2018. arXiv:1806.04613. Farebrother et al., 2024. arXiv:2403.03950.
    """
    _check("hl_gauss_value", logits, low, high)
    wide = at_least_float32(logits)
    return (wide.softmax(-1) * _middles(wide, low, high)).sum(-1).to(logits.dtype)


def hl_gauss_spread(
    logits: Float[Tensor, "batch time bin"], *, low: float = -0.1, high: float = 1.1
) -> Float[Tensor, "batch time"]:
    """Compute the standard deviation of a histogram around its value.

        sₜ = √( Σₖ softmax(zₜ)ₖ (cₖ − V(sₜ))² )        cₖ = (eₖ + eₖ₊₁)/2,  V as in [hl_gauss_value][]

    A histogram that was learned from Gaussians around the returns has their variance too: s² = Var(R) + σ², up to the
    width of the bins. Pointwise, without gradient, in float32 or wider.

    Args:
        logits: zₜ, t in [0, T).
        low: Lower end of the support.
        high: Upper end of the support.

    Returns:
        The spread in the dtype of `logits`; masked positions are to be ignored downstream.

    Raises:
        UsageError: If there are not three axes, fewer than 2 bins, or the support is empty.

    Example:
        >>> hl_gauss_spread(torch.zeros(1, 1, 2), low=0.0, high=1.0)
        tensor([[0.2500]])

    References:
        Imani and White, 2018. arXiv:1806.04613.
    """
    _check("hl_gauss_spread", logits, low, high)
    wide = at_least_float32(logits.detach())
    shares, middles = wide.softmax(-1), _middles(wide, low, high)
    mean = (shares * middles).sum(-1, keepdim=True)
    return (shares * (middles - mean).square()).sum(-1).sqrt().to(logits.dtype)


def _middles(logits: Tensor, low: float, high: float) -> Tensor:
    """The middle of each bin."""
    edges = torch.linspace(low, high, logits.shape[-1] + 1, dtype=logits.dtype, device=logits.device)
    return (edges[1:] + edges[:-1]) / 2


def _mass(edges: Tensor, centre: Tensor, sigma: float) -> Tensor:
    """Share of the Gaussian that lies in each bin."""
    below = torch.special.ndtr((edges - centre) / sigma)
    return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def _density(edges: Tensor, centre: Tensor, sigma: float) -> Tensor:
    """The Gaussian at the middle of each bin, normalized."""
    middles = (edges[1:] + edges[:-1]) / 2
    return (-(((middles - centre) / sigma).square()) / 2).softmax(-1)


def _check(by: str, logits: Tensor, low: float, high: float) -> None:
    check_ndim(by, 3, axes="batch time bin", logits=logits)
    if logits.shape[-1] < 2:
        raise UsageError(f"{by}: logits has shape {tuple(logits.shape)}; a histogram needs at least 2 bins.")
    check_range(by, low=low, high=high)
