"""Slow, obviously correct twins of what heads of critics read and minimize: loops over numbers."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def bounded_value(logits: Tensor, low: float, high: float) -> Tensor:
    """The angle of (1, z), from straight down to straight up, as a share of the way from `low` to `high`."""
    share = [0.5 + math.atan2(z, 1.0) / math.pi for z in logits.reshape(-1).tolist()]
    return torch.tensor([low * (1 - s) + high * s for s in share], dtype=logits.dtype).reshape(logits.shape)


def binary_value_loss(logits: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """Minus the log of the probability of an outcome, averaged over success and failure, token by token."""

    def loss(z: Sequence[float], r: float) -> float:
        success, failure = 1 / (1 + math.exp(-z[0])), 1 / (1 + math.exp(z[0]))
        return -r * math.log(success) - (1 - r) * math.log(failure)

    return _each(logits[..., None], returns, response_mask, loss)


def quantile_loss(quantiles: Tensor, returns: Tensor, response_mask: Tensor, kappa: float) -> Tensor:
    """Huber error of every quantile over κ, weighed by τ below the return and by 1 − τ above it."""

    def loss(z: Sequence[float], r: float) -> float:
        total = []
        for place, quantile in enumerate(z):
            tau, error = (2 * (place + 1) - 1) / (2 * len(z)), r - quantile
            huber = error**2 / 2 if abs(error) <= kappa else kappa * (abs(error) - kappa / 2)
            total.append((1 - tau if error < 0 else tau) * huber / kappa)
        return math.fsum(total) / len(z)

    return _each(quantiles, returns, response_mask, loss)


def quantile_spread(quantiles: Tensor) -> Tensor:
    """Root of the mean squared distance of all pairs over √2, token by token."""
    result = torch.zeros(quantiles.shape[:2], dtype=quantiles.dtype)
    for row in range(quantiles.shape[0]):
        for token in range(quantiles.shape[1]):
            z = quantiles[row, token].tolist()
            result[row, token] = math.sqrt(math.fsum((a - b) ** 2 for a in z for b in z) / (2 * len(z) ** 2))
    return result


def hl_gauss_loss(
    logits: Tensor, returns: Tensor, response_mask: Tensor, low: float, high: float, sigma: float, target: str = "mass"
) -> Tensor:
    """Cross-entropy of the bins, token by token and bin by bin, with the error function of the standard library."""
    bins = logits.shape[-1]
    edges = [low + (high - low) * k / bins for k in range(bins + 1)]

    def mass(centre: float) -> list[float]:
        below = [(1 + math.erf((edge - centre) / (sigma * math.sqrt(2)))) / 2 for edge in edges]
        return [below[k + 1] - below[k] for k in range(bins)]

    def density(centre: float) -> list[float]:
        squares = [((edges[k] + edges[k + 1]) / 2 - centre) ** 2 for k in range(bins)]
        return [math.exp((min(squares) - square) / (2 * sigma**2)) for square in squares]

    def loss(z: Sequence[float], r: float) -> float:
        share = (density if target == "density" else mass)(min(max(r, low), high))
        normalizer = max(z) + math.log(math.fsum(math.exp(number - max(z)) for number in z))
        return math.fsum(p * (normalizer - number) for p, number in zip(share, z, strict=True)) / math.fsum(share)

    return _each(logits, returns, response_mask, loss)


def hl_gauss_value(logits: Tensor, low: float, high: float) -> Tensor:
    """Mean of the bins' midpoints, token by token."""
    result = torch.zeros(logits.shape[:2], dtype=logits.dtype)
    width = (high - low) / logits.shape[-1]
    for row in range(logits.shape[0]):
        for token in range(logits.shape[1]):
            weights = [math.exp(number) for number in logits[row, token].tolist()]
            middle = [low + (k + 0.5) * width for k in range(len(weights))]
            result[row, token] = math.fsum(w * m for w, m in zip(weights, middle, strict=True)) / math.fsum(weights)
    return result


def _each(
    outputs: Tensor, returns: Tensor, response_mask: Tensor, loss: Callable[[Sequence[float], float], float]
) -> Tensor:
    """A loss of the outputs and the return at every trained token, 0 elsewhere."""
    result = torch.zeros(response_mask.shape, dtype=outputs.dtype)
    for row, mask in enumerate(response_mask.tolist()):
        for token in [t for t, trained in enumerate(mask) if trained]:
            result[row, token] = loss(outputs[row, token].tolist(), returns[row, token].item())
    return result
