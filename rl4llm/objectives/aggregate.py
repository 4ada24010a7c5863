"""Aggregators: they reduce the losses of tokens to one number, and nothing else in the library divides a loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_interval, check_mask, check_same_shape
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_sum
from rl4llm.objectives.base import Aggregator, Losses, Mask, Normalizer


def token_mean(per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
    """Average over all trained tokens, so that a long response weighs more than a short one.

        L = Σᵢₜ mᵢₜ ℓᵢₜ / N        N = Σᵢₜ mᵢₜ

    `normalizer` replaces N by the count of the whole optimizer step over microbatches and ranks; the results of the
    pieces then sum to that of the whole, however the step was cut. A loss with one number per response is passed with a
    mask of one truth value per response; every function of this module then gives the mean over the responses that
    count, and N is their number.

    Args:
        per_token: Losses, one per token (batch time) or one per response (batch); read only where `mask` is True.
        mask: True where the loss counts.
        normalizer: What to divide by; the count of this tensor alone when None.

    Returns:
        A scalar in float32 or wider; 0 with zero gradient when nothing counts.

    Raises:
        UsageError: If shapes differ, the mask is not boolean or the normalizer is negative.

    Example:
        >>> losses = torch.tensor([[1.0, 2.0, 3.0], [6.0, 9.0, 9.0]])
        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> token_mean(losses, mask), token_mean(losses, mask, normalizer=6)
        (tensor(3.), tensor(2.))

    References:
        Yu et al., 2025. arXiv:2503.14476, eq. 8.
    """
    _check("token_mean", per_token, mask, normalizer)
    return _divided(masked_sum(per_token, mask), token_count(mask) if normalizer is None else normalizer)


def sequence_mean(per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
    """Average over the tokens of each response, then over the responses with tokens, so that all weigh the same.

        L = (1/N) Σᵢ (Σₜ mᵢₜ ℓᵢₜ / Σₜ mᵢₜ)        N = number of responses with Σₜ mᵢₜ > 0

    Arguments, result, errors and `normalizer` as in [token_mean][].

    Example:
        >>> losses = torch.tensor([[1.0, 2.0, 3.0], [6.0, 9.0, 9.0]])
        >>> sequence_mean(losses, torch.tensor([[True, True, True], [True, False, False]]))
        tensor(4.)

    References:
        Shao et al., 2024. arXiv:2402.03300, eq. 3.
    """
    _check("sequence_mean", per_token, mask, normalizer)
    means = masked_mean(per_token, mask, dim=1) if mask.ndim > 1 else keep(at_least_float32(per_token), mask)
    return _divided(means.sum(), response_count(mask) if normalizer is None else normalizer)


def sequence_sum(per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
    """Sum over the tokens of each response, then average over the responses with tokens.

        L = (1/N) Σᵢₜ mᵢₜ ℓᵢₜ        N = number of responses with Σₜ mᵢₜ > 0

    The policy gradient of the expected score, without a length term. Arguments, result, errors and `normalizer` as in
    [token_mean][].

    Example:
        >>> losses = torch.tensor([[1.0, 2.0, 3.0], [6.0, 9.0, 9.0]])
        >>> sequence_sum(losses, torch.tensor([[True, True, True], [True, False, False]]))
        tensor(6.)

    References:
        Ahmadian et al., 2024. arXiv:2402.14740, eq. 6.
    """
    _check("sequence_sum", per_token, mask, normalizer)
    return _divided(masked_sum(per_token, mask), response_count(mask) if normalizer is None else normalizer)


def constant_norm(
    per_token: Losses, mask: Mask, *, max_tokens: int, normalizer: Normalizer = None
) -> Float[Tensor, ""]:
    """Sum over the tokens of each response, divide by a constant length, then average over the responses with tokens.

        L = (1/N) Σᵢₜ mᵢₜ ℓᵢₜ / max_tokens        N = number of responses with Σₜ mᵢₜ > 0

    The constant is a hyperparameter, never the width of the tensor, so padding has no influence. A loss with one number
    per response is not divided by it. Other arguments, result, errors and `normalizer` as in [token_mean][].

    Args:
        per_token: Losses.
        mask: True where the loss counts.
        max_tokens: The constant: usually the longest response that is allowed.
        normalizer: Number of responses to divide by.

    Returns:
        A scalar.

    Raises:
        UsageError: If max_tokens is not a positive whole number, or as in [token_mean][].

    Example:
        >>> losses = torch.tensor([[1.0, 2.0, 3.0], [6.0, 9.0, 9.0]])
        >>> constant_norm(losses, torch.tensor([[True, True, True], [True, False, False]]), max_tokens=4)
        tensor(1.5000)

    References:
        Liu et al., 2025. arXiv:2503.20783, §3.2.
    """
    check_at_least("constant_norm", 1, max_tokens=max_tokens)
    total = sequence_sum(per_token, mask, normalizer=normalizer)
    return total / max_tokens if mask.ndim > 1 else total


def token_count(mask: Mask) -> Int[Tensor, ""]:
    """Count the entries of the mask.

    Example:
        >>> token_count(torch.tensor([[True, False], [True, True]]))
        tensor(3)
    """
    check_mask("token_count", mask=mask)
    return mask.sum()


def response_count(mask: Mask) -> Int[Tensor, ""]:
    """Count the responses with at least one trained token.

    Example:
        >>> response_count(torch.tensor([[True, False], [False, False]]))
        tensor(1)
    """
    check_mask("response_count", mask=mask)
    return mask.any(-1).sum() if mask.ndim > 1 else mask.sum()


def _check(by: str, per_token: Tensor, mask: Tensor, normalizer: Normalizer) -> None:
    check_mask(by, mask=mask)
    check_same_shape(by, mask=mask, per_token=per_token)
    if mask.ndim not in (1, 2):
        raise UsageError(f"{by}: mask has shape {tuple(mask.shape)}; expected batch time, or batch for responses.")
    # Reading a tensor would wait for the device.
    check_interval(by, 0.0, normalizer=float(normalizer) if isinstance(normalizer, float | int) else None)


def _divided(total: Tensor, normalizer: float | int | Tensor) -> Tensor:
    """Divide by the normalizer, or by 1 if it is 0: nothing counts then and the total is 0. It may be below 1."""
    divisor = torch.as_tensor(normalizer, dtype=total.dtype, device=total.device)
    return total / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


@dataclass(frozen=True)
class TokenMean(Aggregator):
    """Aggregator: mean over all trained tokens. See [token_mean][]."""

    paper: ClassVar[str] = "2503.14476"

    def count(self, mask: Mask) -> Int[Tensor, ""]:
        """Count the trained tokens."""
        return token_count(mask)

    def __call__(self, per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
        """Average over all trained tokens."""
        return token_mean(per_token, mask, normalizer=normalizer)


@dataclass(frozen=True)
class SequenceMean(Aggregator):
    """Aggregator: mean over the tokens of each response, then over responses. See [sequence_mean][]."""

    paper: ClassVar[str] = "2402.03300"

    def count(self, mask: Mask) -> Int[Tensor, ""]:
        """Count the responses with at least one trained token."""
        return response_count(mask)

    def __call__(self, per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
        """Average the means over tokens over the responses."""
        return sequence_mean(per_token, mask, normalizer=normalizer)


@dataclass(frozen=True)
class SequenceSum(Aggregator):
    """Aggregator: sum over the tokens of each response, then mean over responses. See [sequence_sum][]."""

    paper: ClassVar[str] = "2402.14740"

    def count(self, mask: Mask) -> Int[Tensor, ""]:
        """Count the responses with at least one trained token."""
        return response_count(mask)

    def __call__(self, per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
        """Average the sums over tokens over the responses."""
        return sequence_sum(per_token, mask, normalizer=normalizer)


@dataclass(frozen=True)
class ConstantNorm(Aggregator):
    """Aggregator: sum over tokens divided by a constant length, then mean over responses. See [constant_norm][].

    Args:
        max_tokens: The constant: usually the longest response that is allowed.
    """

    max_tokens: int
    paper: ClassVar[str] = "2503.20783"

    def __post_init__(self) -> None:
        check_at_least("ConstantNorm", 1, max_tokens=self.max_tokens)

    def count(self, mask: Mask) -> Int[Tensor, ""]:
        """Count the responses with at least one trained token."""
        return response_count(mask)

    def __call__(self, per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
        """Average the sums over tokens over the responses and divide by the constant."""
        return constant_norm(per_token, mask, max_tokens=self.max_tokens, normalizer=normalizer)
