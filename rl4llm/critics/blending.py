"""Baselines between the critics and the mean of the scores: a coefficient by least squares, and a switch."""

from math import inf

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.checks import (
    UsageError,
    check_at_least,
    check_device,
    check_given,
    check_interval,
    check_response_tensors,
    check_token_tensors,
)
from rl4llm.critic_values import critic_mean
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_quantile, spread


@torch.no_grad()
def blend_coefficient(
    scores: Num[Tensor, " batch"],
    baselines: Num[Tensor, " batch"],
    values: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    previous: float = 0.0,
    decay: float = 0.0,
    ridge: float = 0.0,
    clip: bool = True,
) -> Float[Tensor, ""]:
    """Compute, by least squares, how far a baseline should move from one number per response towards the critic.

        ρ̂ = Σ (R − B)(V(sₜ) − B) / Σ (V(sₜ) − B)²          ρ = decay · previous + (1 − decay) ρ̂

    ρ̂ minimizes Σ (R − (1 − ρ)B − ρV)², the squared advantage at λ = 1 under the blended baseline: 0 keeps B, 1 takes
    V. Sums run over the trained tokens of the responses that could be scored. Where V and B differ by rounding alone
    nothing can be fitted, and ρ stays what it was. ρ̂ has seen the scores of its batch: use it from the next one on.

    Args:
        scores: R, one number per response; NaN where it could not be scored.
        baselines: B, one number per response, not of its own score ([leave_one_out_mean][]).
        values: V(sₜ), t in [0, T), from before they learned from these scores. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        previous: ρ before this batch.
        decay: Weight of `previous` in [0, 1]; 0 gives the fit of this batch.
        ridge: At least 0; what is added to the mean of (V − B)², in units of the larger of that and the mean of
            (R − B)². It draws ρ̂ towards 0 where the critic says almost what B does (the authors' code: 1e-6).
        clip: Whether ρ̂ is kept in [0, 1], as the optimum of the paper is (their code does not).

    Returns:
        ρ, a scalar in float32 or wider, without graph.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a hyperparameter is out of range.

    Example:
        >>> values, mask = torch.tensor([[0.5, 0.75], [0.5, 0.25]]), torch.ones(2, 2, dtype=torch.bool)
        >>> blend_coefficient(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]), values, mask)
        tensor(1.)

    References:
        Venkatraman et al., 2026 (TETHER). arXiv:2608.16739, eq. 15 to 17 and 22; ridge as in the authors' code.
    """
    check_token_tensors("blend_coefficient", response_mask, values=values)
    check_response_tensors("blend_coefficient", response_mask, scores=scores, baselines=baselines)
    check_blend("blend_coefficient", decay, ridge)
    check_interval("blend_coefficient", -inf, inf, "()", previous=previous)
    mask = response_mask & ~scores.isnan()[:, None]
    wide = torch.promote_types(at_least_float32(scores).dtype, at_least_float32(values).dtype)
    outcome, base, value = (x.to(wide) for x in (spread(scores, mask), spread(baselines, mask), keep(values, mask)))
    gap, error = value - base, outcome - base
    size, target = masked_mean(gap**2, mask), masked_mean(error**2, mask)
    fit = masked_mean(error * gap, mask) / (size + ridge * torch.maximum(size, target))
    fit = fit.clamp(0.0, 1.0) if clip else fit
    largest = torch.cat([value.new_zeros(1), value.abs().flatten(), base.abs().flatten()]).amax()
    rounding = 8 * torch.finfo(wide).eps * largest
    before = torch.full_like(fit, previous)
    return torch.where(size > rounding**2, decay * before + (1 - decay) * fit, before)


def check_blend(by: str, decay: float, ridge: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, 1.0, decay=decay)
    check_interval(by, 0.0, inf, "[)", ridge=ridge)


@torch.no_grad()
def spread_bins(
    spreads: Float[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"], *, bins: int
) -> Int[Tensor, "batch time"]:
    """Return the index of the equally filled bin into which the critics' spread falls at each token.

        binₜ = number of k in 1, ..., bins − 1 with σₜ > q(k/bins)          q: quantiles over the trained tokens

    Equal spreads share a bin; critics that agree everywhere fill the first one alone.

    Args:
        spreads: σₜ, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        bins: How many, at least 1.

    Returns:
        The bin, in [0, bins); 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or there is no bin.

    Example:
        >>> spread_bins(torch.tensor([[0.1, 0.4, 0.2, 0.9]]), torch.ones(1, 4, dtype=torch.bool), bins=2)
        tensor([[0, 1, 0, 1]])

    References:
        Ours: TETHER (arXiv:2608.16739) has one coefficient, or one for each stretch of positions.
    """
    check_at_least("spread_bins", 1, bins=bins)
    check_token_tensors("spread_bins", response_mask, spreads=spreads)
    edges = [masked_quantile(spreads, response_mask, k / bins) for k in range(1, bins)]
    above = [(at_least_float32(spreads) > edge).long() for edge in edges]
    return keep(sum(above, torch.zeros_like(spreads, dtype=torch.long)), response_mask)


@torch.no_grad()
def position_bins(response_mask: Bool[Tensor, "batch time"], *, bins: int, width: int) -> Int[Tensor, "batch time"]:
    """Return the stretch of its response in which each token lies.

        binₜ = min(⌊number of trained tokens before t / width⌋, bins − 1)

    Args:
        response_mask: True at trained tokens; holes are not counted.
        bins: How many, at least 1; the last one takes all that is further back.
        width: Tokens of a stretch, at least 1.

    Returns:
        The bin, in [0, bins); 0 where `response_mask` is False.

    Raises:
        UsageError: If the mask is not boolean, or there is no bin or no token in one.

    Example:
        >>> position_bins(torch.tensor([[True, True, False, True, True, True]]), bins=2, width=2)
        tensor([[0, 0, 0, 1, 1, 1]])

    References:
        Venkatraman et al., 2026 (TETHER; stretches of 1,024 tokens). arXiv:2608.16739, eq. 18.
    """
    check_at_least("position_bins", 1, bins=bins, width=width)
    check_token_tensors("position_bins", response_mask)
    before = response_mask.cumsum(-1) - 1
    return keep((before // width).clamp(max=bins - 1), response_mask)


@torch.no_grad()
def trusted_mean(
    critic_values: Float[Tensor, "critic batch time"],
    explained_variances: Float[Tensor, " critic"],
    baselines: Float[Tensor, "batch time"],
    *,
    threshold: float = 0.0,
) -> Float[Tensor, "batch time"]:
    """Average the critics whose explained variance is above a threshold; use a baseline where there is none.

        bₜ = mean over S of Vₘ(sₜ)        S = {m : EVₘ > threshold}        bₜ = Bₜ if S is empty

    With one critic this is a switch. Pointwise over tokens: a masked position holds whatever the inputs hold there.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T).
        explained_variances: EVₘ of each critic.
        baselines: Bₜ.
        threshold: Above which a critic is trusted; −∞ trusts all, ∞ none.

    Returns:
        bₜ in the dtype of `critic_values`, without graph.

    Raises:
        UsageError: If the numbers of critics, rows or columns differ, or `threshold` is no number.

    Example:
        >>> critic_values, baselines = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[9.0]])
        >>> trusted_mean(critic_values, torch.tensor([0.1, -0.1]), baselines)
        tensor([[1.]])
        >>> trusted_mean(critic_values, torch.tensor([0.0, -0.1]), baselines)
        tensor([[9.]])

    References:
        Pan et al., 2026 (EVPO; one critic). arXiv:2604.19485.
    """
    check_interval("trusted_mean", threshold=threshold)
    named = {"explained_variances": explained_variances, "baselines": baselines}
    check_given("trusted_mean", critic_values=critic_values, **named)
    expected = {"explained_variances": critic_values.shape[:1], "baselines": critic_values.shape[1:]}
    for name, given in named.items():
        if given.shape != expected[name]:
            raise UsageError(
                f"trusted_mean: {name} has shape {tuple(given.shape)}, critic_values {tuple(critic_values.shape)}; "
                f"expected {tuple(expected[name])}."
            )
    check_device("trusted_mean", critic_values=critic_values, **named)
    trusted = explained_variances > threshold
    return critic_mean(critic_values[trusted]) if trusted.any() else baselines.to(critic_values.dtype)
