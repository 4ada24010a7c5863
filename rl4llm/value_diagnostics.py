"""Diagnostics of critics as scalars to log, without gradient."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.checks import (
    UsageError,
    check_at_least,
    check_critic_values,
    check_device,
    check_given,
    check_token_tensors,
)
from rl4llm.critic_values import critic_mean, critic_std
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_var


def explained_variance(
    values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Compute the share of the variance of the returns that the values explain.

        EV = 1 − Var(R − V) / Var(R)          over all trained tokens

    1 for values that equal the returns up to a constant, 0 for constant values, negative for values that are worse
    than a constant. A constant offset is not seen. Where the returns vary by rounding alone (or fewer than two
    tokens are trained) there is nothing to explain: 0.

    Args:
        values: V(sₜ), t in [0, T). Read only where `response_mask` is True.
        returns: Rₜ. Read only where `response_mask` is True.
        response_mask: True at trained tokens.

    Returns:
        A scalar in float32 or wider, at most 1, without graph.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> mask = torch.ones(1, 4, dtype=torch.bool)
        >>> explained_variance(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), mask)
        tensor(0.7500)

    References:
        A common diagnostic of value functions; no single source.
    """
    check_token_tensors("explained_variance", response_mask, values=values, returns=returns)
    target, predicted = at_least_float32(returns.detach()), at_least_float32(values.detach())
    left = masked_var(target - predicted, response_mask, unbiased=False)
    total = masked_var(target, response_mask, unbiased=False)
    rounding = 8 * torch.finfo(total.dtype).eps * _largest(response_mask, target, predicted)
    return torch.where(total > rounding**2, 1 - left / total, torch.zeros_like(total))


def _largest(mask: Tensor, *tensors: Tensor) -> Tensor:
    """Return the largest absolute number at trained tokens, to which rounding errors are proportional."""
    return torch.stack([torch.cat([x.new_zeros(1), keep(x, mask).abs().flatten()]).amax() for x in tensors]).amax()


def spread_error_correlation(
    critic_values: Float[Tensor, "critic batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Compute the correlation of the critics' spread with the error of their mean: do they disagree where they err?

        ρ = corr( σₜ, |V̄(sₜ) − Rₜ| )          Pearson, over all trained tokens

    Near 1 the spread is a usable measure of uncertainty, near 0 it is noise. Where either side does not vary (one
    critic, identical critics, fewer than two tokens) the correlation is undefined: 0.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T). Read only where `response_mask` is True.
        returns: Rₜ. Read only where `response_mask` is True.
        response_mask: True at trained tokens.

    Returns:
        A scalar in [−1, 1], in float32 or wider, without graph.

    Raises:
        UsageError: If shapes do not match or the mask is not boolean.

    Example:
        >>> critic_values = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 2.0, 4.0]]])
        >>> spread_error_correlation(critic_values, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
        tensor(1.)

    References:
        The assumption behind the gates of Liu et al., 2025. arXiv:2510.01656; the statistic is ours.
    """
    check_critic_values("spread_error_correlation", critic_values, response_mask)
    check_token_tensors("spread_error_correlation", response_mask, returns=returns)
    wide = at_least_float32(critic_values)
    spread, error = critic_std(wide), (critic_mean(wide) - at_least_float32(returns.detach())).abs()
    sides = [x - masked_mean(x, response_mask) for x in (spread, error)]
    deviations = [masked_var(x, response_mask, unbiased=False).sqrt() for x in (spread, error)]
    covariance, scale = masked_mean(sides[0] * sides[1], response_mask), deviations[0] * deviations[1]
    return torch.where(scale > 0, (covariance / scale).clamp(-1, 1), torch.zeros_like(scale))


def calibration_error(
    values: Float[Tensor, " state"], outcomes: Float[Tensor, " state"], bins: int = 10
) -> Float[Tensor, ""]:
    """Compute the calibration error: the mean distance of values from outcomes within bins of equal values.

        E = Σ over bins b of |b|/n · | mean of V in b − mean of outcomes in b |

    Bins hold the states in order of their values, as evenly as they can be filled. 0 for values that are right on
    average wherever they look, even if they know little; in units of the outcome.

    Args:
        values: V(s) of some states.
        outcomes: What followed: a return, or the mean of several.
        bins: How many.

    Returns:
        A scalar in float32 or wider, at least 0, without graph; 0 without states.

    Raises:
        UsageError: If the shapes differ or there is no bin.

    Example:
        >>> calibration_error(torch.tensor([0.2, 0.2, 0.9, 0.9]), torch.tensor([0.0, 0.0, 1.0, 1.0]), bins=2)
        tensor(0.1500)

    References:
        Naeini, Cooper and Hauskrecht, 2015: expected calibration error, here with bins of equal counts.
    """
    check_at_least("calibration_error", 1, bins=bins)
    _check_states("calibration_error", values=values, outcomes=outcomes)
    values, outcomes = at_least_float32(values.detach()), at_least_float32(outcomes.detach())
    if not len(values):
        return values.new_zeros(())
    parts = _by_value(values, outcomes, bins)
    return torch.stack([(value - outcome).sum().abs() for value, outcome in parts]).sum() / len(values)


def calibration_curve(
    values: Float[Tensor, " state"], outcomes: Float[Tensor, " state"], bins: int = 10
) -> Float[Tensor, "bin pair"]:
    """Mean value and mean outcome of the states in each bin of their values.

        cᵦ = ( mean of V in bin b, mean of outcomes in bin b )          b in [0, bins), V ascending

    The bins are those of [calibration_error][], which is the mean distance of the two columns weighted by the size of
    the bins. Values that are right on average have two equal columns.

    Args:
        values: V(s) of some states.
        outcomes: What followed: a return, or the mean of several.
        bins: Number of bins.

    Returns:
        One row per bin in float32 or wider, without graph; NaN for a bin without states.

    Raises:
        UsageError: If the shapes differ or there is no bin.

    Example:
        >>> calibration_curve(torch.tensor([0.75, 0.25, 0.25, 0.75]), torch.tensor([1.0, 0.0, 1.0, 1.0]), bins=2)
        tensor([[0.2500, 0.5000],
                [0.7500, 1.0000]])

    References:
        Naeini, Cooper and Hauskrecht, 2015 (reliability diagrams), here with bins of equal counts.
    """
    check_at_least("calibration_curve", 1, bins=bins)
    _check_states("calibration_curve", values=values, outcomes=outcomes)
    parts = _by_value(at_least_float32(values.detach()), at_least_float32(outcomes.detach()), bins)
    return torch.stack([torch.stack([value.mean(), outcome.mean()]) for value, outcome in parts])


def _by_value(values: Tensor, outcomes: Tensor, bins: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the values and outcomes of each bin, in ascending order of the values."""
    order = values.argsort(stable=True)
    yield from zip(values[order].tensor_split(bins), outcomes[order].tensor_split(bins), strict=True)


def response_places(response_mask: Bool[Tensor, "batch time"], parts: int = 3) -> Int[Tensor, "batch time"]:
    """In which part of its response each trained token stands.

        placeₜ = ⌊ parts · j / n ⌋          the token is the j-th of the n trained tokens of its response, j from 0

    Args:
        response_mask: True at trained tokens.
        parts: Number of parts; as many as are equal in size up to one token.

    Returns:
        A number in [0, parts) per trained token; −1 where `response_mask` is False.

    Raises:
        UsageError: If there is no part or the mask is not a boolean matrix.

    Example:
        >>> response_places(torch.tensor([[True, True, False, True]]), parts=3)
        tensor([[ 0,  1, -1,  2]])

    References:
        A diagnostic of this library.
    """
    check_at_least("response_places", 1, parts=parts)
    check_token_tensors("response_places", response_mask)
    number, total = response_mask.cumsum(-1) - 1, response_mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(response_mask, number * parts // total, -1)


def rank_correlation(x: Float[Tensor, " state"], y: Float[Tensor, " state"]) -> Float[Tensor, ""]:
    """Compute Spearman's rank correlation ρ of two quantities.

        ρ = corr( rank(x), rank(y) )          equal numbers share the mean of their ranks

    Between the critics' spread and |V̄ − truth| it says whether disagreement points at error. For n independent states
    the 95 % interval is tanh(atanh(ρ) ± 1.96 · 1.03/√(n − 3)).

    Args:
        x: One number per state.
        y: Another one per state.

    Returns:
        A scalar in [−1, 1], in float32 or wider, without graph; 0 where either does not vary.

    Raises:
        UsageError: If the shapes differ.

    Example:
        >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0]))
        tensor(1.)

    References:
        Spearman, 1904; the interval: Fieller, Hartley and Pearson, 1957.
    """
    _check_states("rank_correlation", x=x, y=y)
    sides = [_ranks(at_least_float32(side.detach())) for side in (x, y)]
    sides = [side - side.mean() for side in sides if len(side)] or [torch.zeros(1), torch.zeros(1)]
    scale = sides[0].norm() * sides[1].norm()
    return torch.where(scale > 0, ((sides[0] * sides[1]).sum() / scale).clamp(-1, 1), torch.zeros_like(scale))


def _ranks(x: Float[Tensor, " state"]) -> Float[Tensor, " state"]:
    _, kind, count = x.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).to(x.dtype)
    return (last - (count.to(x.dtype) - 1) / 2)[kind]


def _check_states(caller: str, **vectors: Tensor) -> None:
    (name, one), (other, two) = vectors.items()
    check_given(caller, **vectors)
    check_device(caller, **vectors)
    if one.dim() != 1 or one.shape != two.shape:
        raise UsageError(
            f"{caller}: {name} has shape {tuple(one.shape)}, {other} {tuple(two.shape)}; "
            "give both one number per state."
        )
