"""Penalties for leaving the policy at the start of the update, by the ratio or the log-ratio of the token."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.gates.base import Gate
from rl4llm.masked import at_least_float32
from rl4llm.ratios import tangent_exp, token_log_ratio
from rl4llm.regularizers.base import Regularizer


def ratio_deviation(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the squared deviation of the ratio from 1.

        rₜ = π_θ(yₜ) / π_old(yₜ)        ℓₜ = (rₜ − 1)²        ∂ℓₜ/∂log π_θ(yₜ) = 2 rₜ (rₜ − 1)

    Under the sampling policy E[r] = 1, so its expectation is the variance of the ratio and the χ² divergence of π_θ
    from π_old, which bounds total variation and KL. The ratio is continued by its tangent above e²⁰, see
    [tangent_exp][].

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        response_mask: True at trained tokens; the two are read only there.

    Returns:
        Penalty of each token in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> log_probs, old = torch.tensor([[0.5, 0.9]]).log(), torch.tensor([[0.5, 0.3]]).log()
        >>> ratio_deviation(log_probs, old, torch.tensor([[True, True]]))
        tensor([[0., 4.]])

    References:
        Luo et al., 2026. arXiv:2601.03320 (inferred from its abstract).
    """
    check_token_tensors("ratio_deviation", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    log_ratios = token_log_ratio(at_least_float32(log_probs), old_log_probs, response_mask)
    return (tangent_exp(log_ratios, minus_one=True) ** 2).to(log_probs.dtype)


def log_ratio_distance(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the absolute log-ratio.

        dₜ = log π_θ(yₜ) − log π_old(yₜ)        ℓₜ = |dₜ|        ∂ℓₜ/∂log π_θ(yₜ) = sign dₜ  (0 at dₜ = 0)

    The gradient has the same size however far the token has moved. Arguments, result and errors as in
    [ratio_deviation][].

    Example:
        >>> import torch
        >>> log_ratio_distance(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, True]]))
        tensor([[0.5000, 1.0000]])

    References:
        Cui et al., 2025. arXiv:2505.22617, KL-Cov (as in the authors' code).
    """
    check_token_tensors("log_ratio_distance", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    return token_log_ratio(at_least_float32(log_probs), old_log_probs, response_mask).abs().to(log_probs.dtype)


@dataclass(frozen=True)
class RatioPenalty(Regularizer):
    """Regularizer that penalizes the squared deviation of the ratio from 1. See [ratio_deviation][].

    Together with `ImportanceWeighted` this is `RatioVariance(multiplier=coef)`; inside `Constrained` its coefficient
    adapts.

    Args:
        coef: Weight, at least 0.
        where: Gate that restricts it; all response tokens when None.
    """

    coef: float = 0.04
    where: Gate | None = None
    anchored: ClassVar[bool] = True
    paper: ClassVar[str] = "2601.03320"

    def __post_init__(self) -> None:
        check_interval("RatioPenalty", 0.0, ends="[)", coef=self.coef)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        return self.coef * ratio_deviation(policy.log_probs, batch.old_log_probs, batch.response_mask)


@dataclass(frozen=True)
class LogRatioPenalty(Regularizer):
    """Regularizer that penalizes the absolute log-ratio, as KL-Cov does. See [log_ratio_distance][].

    Args:
        coef: Weight, at least 0.
        where: Gate that restricts it; all response tokens when None.
    """

    coef: float = 1.0
    where: Gate | None = None
    anchored: ClassVar[bool] = True
    paper: ClassVar[str] = "2505.22617"

    def __post_init__(self) -> None:
        check_interval("LogRatioPenalty", 0.0, ends="[)", coef=self.coef)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        return self.coef * log_ratio_distance(policy.log_probs, batch.old_log_probs, batch.response_mask)
