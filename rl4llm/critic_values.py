"""One number from several critics: their mean, their minimum, the value of the first, and their spread.

The four are pointwise over tokens and take no mask: what stands at a masked position stays at that position, and
every reader downstream masks it.
"""

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.checks import UsageError, check_given
from rl4llm.masked import at_least_float32


def _check_critics(by: str, critic_values: Tensor) -> None:
    check_given(by, critic_values=critic_values)
    if critic_values.ndim != 3 or critic_values.shape[0] == 0:
        raise UsageError(
            f"{by}: critic_values has shape {tuple(critic_values.shape)}; expected (critic, batch, time) with at "
            "least one critic: stack the critics' values along a first axis."
        )


def _above_lowest(critic_values: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest value of each token, and by how much each critic exceeds it, in ascending order.

    Sorted, so that the order of the critics cannot change a rounding; relative to the lowest, so that critics that
    agree exactly have a spread of exactly 0 and a mean of exactly their common value.
    """
    ordered = at_least_float32(critic_values.detach()).sort(0).values
    return ordered[0], ordered - ordered[0]


def _mean(numbers: Tensor) -> Tensor:
    """Mean over the first axis, critic by critic: `Tensor.mean` rounds by the place of a token in memory."""
    return reduce(torch.add, numbers.unbind()) / len(numbers)


def critic_mean(critic_values: Float[Tensor, "critic batch time"]) -> Float[Tensor, "batch time"]:
    """Mean over the critics: the value that the advantage estimator uses.

        V̄(sₜ) = 1/M Σₘ Vₘ(sₜ)

    Pointwise: masked positions hold whatever the critics hold there, to be ignored downstream. No gradient flows;
    each critic learns from its own loss. Computed in float32 or wider.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T).

    Returns:
        The mean in the input's dtype; exactly the common value where the critics agree. It does not depend on the
        order of the critics.

    Raises:
        UsageError: If the shape is not (critic, batch, time) with at least one critic.

    Example:
        >>> import torch
        >>> critic_mean(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
        tensor([[2., 2.]])

    References:
        Liu et al., 2025. arXiv:2510.01656, as public notes of the paper have it.
    """
    _check_critics("critic_mean", critic_values)
    lowest, above = _above_lowest(critic_values)
    return (lowest + _mean(above)).to(critic_values.dtype)


def critic_min(critic_values: Float[Tensor, "critic batch time"]) -> Float[Tensor, "batch time"]:
    """Minimum over the critics: a pessimistic value.

        V(sₜ) = minₘ Vₘ(sₜ)

    Arguments and errors as in [critic_mean][]. AsyPPO's ablation finds the mean better.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T).

    Returns:
        The minimum in the input's dtype, without graph; masked positions are to be ignored downstream.

    Raises:
        UsageError: If the shape is not (critic, batch, time) with at least one critic.

    Example:
        >>> import torch
        >>> critic_min(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
        tensor([[1., 2.]])

    References:
        Fujimoto et al., 2018. arXiv:1802.09477, eq. 10 (two critics, next-state value).
    """
    _check_critics("critic_min", critic_values)
    return critic_values.detach().amin(0)


def critic_first(critic_values: Float[Tensor, "critic batch time"]) -> Float[Tensor, "batch time"]:
    """Value of the first critic alone: the control for an ensemble that leaves its data and its spread as they are.

        V(sₜ) = V₀(sₜ)

    With shards it is one critic that learns from its part of the responses only. Arguments and errors as in
    [critic_mean][].

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T).

    Returns:
        The first critic's values, without graph; masked positions are to be ignored downstream.

    Raises:
        UsageError: If the shape is not (critic, batch, time) with at least one critic.

    Example:
        >>> import torch
        >>> critic_first(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
        tensor([[1., 2.]])

    References:
        A control; no paper.
    """
    _check_critics("critic_first", critic_values)
    return critic_values.detach()[0]


def critic_std(critic_values: Float[Tensor, "critic batch time"]) -> Float[Tensor, "batch time"]:
    """Spread of the critics at each token: their population standard deviation.

        σₜ = √( 1/M Σₘ (Vₘ(sₜ) − V̄(sₜ))² )          M = 2:  σₜ = |V₁ − V₂| / 2

    Pointwise, without gradient, in float32 or wider, as [critic_mean][]. The gates use only its ranks, so that
    dividing by M or by M − 1 is the same to them.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T).

    Returns:
        The spread in the input's dtype; exactly 0 for one critic and wherever all critics agree; masked positions
        are to be ignored downstream.

    Raises:
        UsageError: If the shape is not (critic, batch, time) with at least one critic.

    Example:
        >>> import torch
        >>> critic_std(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
        tensor([[1., 0.]])

    References:
        Liu et al., 2025. arXiv:2510.01656, the σₜ of eqs. 4 and 5.
    """
    _check_critics("critic_std", critic_values)
    _, above = _above_lowest(critic_values)
    return _mean((above - _mean(above)).square()).sqrt().to(critic_values.dtype)
