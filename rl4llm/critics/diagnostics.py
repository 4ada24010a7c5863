"""How good the critics are, as scalars to log. Nothing here has a gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_critic_values, check_token_tensors
from rl4llm.critic_values import critic_mean, critic_std
from rl4llm.masked import at_least_float32, masked_mean, masked_var


def explained_variance(
    values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Share of the variance of the returns that the values explain.

        EV = 1 − Var(R − V) / Var(R)          over all trained tokens

    1 for values that equal the returns up to a constant, 0 for constant values, negative for values that are worse
    than a constant. A constant offset is not seen. Where the returns do not vary (or fewer than two tokens are
    trained) there is nothing to explain: 0.

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
    target = at_least_float32(returns.detach())
    left = masked_var(target - at_least_float32(values.detach()), response_mask, unbiased=False)
    total = masked_var(target, response_mask, unbiased=False)
    return torch.where(total > 0, 1 - left / total, torch.zeros_like(total))


def spread_error_correlation(
    critic_values: Float[Tensor, "critic batch time"],
    returns: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Whether the critics disagree where they are wrong: correlation of their spread with the error of their mean.

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
