"""Masked importance sampling: what the engine and the trainer disagree on too much does not count."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_choice
from rl4llm.corrections.base import Correction
from rl4llm.corrections.weights import engine_log_ratio, weight
from rl4llm.masked import keep, masked_mean

_LEVELS = ("token", "response", "mean")


def masked_importance(
    old_log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    low: float,
    high: float,
    level: str,
) -> Float[Tensor, "batch time"]:
    """Weights that are 0 where the ratio of the trainer's policy to the engine's leaves [low, high].

        wₜ = π_old(yₜ) / μ(yₜ)          level "token":    wₜ · 1[low ≤ wₜ ≤ high]
                                        level "response": ρ · 1[low ≤ ρ ≤ high] at every token, ρ = Πₜ wₜ
                                        level "mean":     the same of ρ = (Πₜ wₜ)^(1/n), n trained tokens

    What lies within the bounds counts with its ratio, what does not is left out. The weights are constants, compared
    and multiplied as logarithms and never above e²⁰.

    Args:
        old_log_probs: log π_old(yₜ), as the trainer computes it, t in [0, T).
        rollout_log_probs: log μ(yₜ), as the engine reported it.
        response_mask: True at trained tokens; the two are read only there.
        low: Smallest ratio that counts, in [0, 1].
        high: Largest ratio that counts, at least 1.
        level: "token", "response" (the product) or "mean" (the geometric mean).

    Returns:
        Weights in the dtype of `old_log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, a hyperparameter is out of range, or the engine gave no
            log-probs.

    Example:
        >>> import torch
        >>> old, rollout = torch.tensor([[0.3, 0.2, 0.5]]).log(), torch.tensor([[0.04, 0.25, 0.5]]).log()
        >>> masked_importance(old, rollout, torch.ones(1, 3, dtype=torch.bool), low=0.5, high=5.0, level="token")
        tensor([[0.0000, 0.8000, 1.0000]])
        >>> masked_importance(old, rollout, torch.ones(1, 3, dtype=torch.bool), low=0.5, high=5.0, level="mean")
        tensor([[1.8171, 1.8171, 1.8171]])

    References:
        Ling Team, 2025 (token level: IcePop). arXiv:2510.18855. Response levels: as in the code of several frameworks.
    """
    check_masked_importance("masked_importance", low, high, level)
    log_ratio = engine_log_ratio(old_log_probs, rollout_log_probs, response_mask, by="masked_importance")
    compared = {
        "token": log_ratio,
        "response": log_ratio.sum(-1, keepdim=True),
        "mean": masked_mean(log_ratio, response_mask, dim=-1)[:, None],
    }[level]
    inside = (compared >= (math.log(low) if low else -math.inf)) & (compared <= math.log(high))
    weights = weight(compared).expand_as(log_ratio)
    return keep(weights, response_mask & inside).to(old_log_probs.dtype)


def check_masked_importance(by: str, low: float, high: float, level: str) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    if not 0.0 <= low <= 1.0 <= high:
        raise UsageError(f"{by}: low must be in [0, 1] and high at least 1, got low={low} and high={high}.")
    check_choice(by, _LEVELS, level=level)


@dataclass(frozen=True)
class IcePop(Correction):
    """Drops single tokens whose weight leaves the bounds; the others keep it (IcePop). See [masked_importance][].

    Args:
        low: Smallest weight that counts, in [0, 1].
        high: Largest weight that counts, at least 1.
    """

    low: float = 0.5
    high: float = 5.0
    paper: ClassVar[str] = "2510.18855"

    def __post_init__(self) -> None:
        check_masked_importance("IcePop", self.low, self.high, "token")

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """`masked_importance` of the batch's log-probs, by token."""
        old, rollout, mask = batch.old_log_probs, batch.rollout_log_probs, batch.response_mask
        return masked_importance(old, rollout, mask, low=self.low, high=self.high, level="token")


@dataclass(frozen=True)
class MaskedImportance(Correction):
    """Drops whole responses whose ratio leaves the bounds and weighs the others by it (MIS). See [masked_importance][].

    Args:
        low: Smallest ratio that counts, in [0, 1].
        high: Largest ratio that counts, at least 1.
        level: The ratio of the response: the product of its tokens' ("response"), or their geometric mean ("mean").
        in_divisor: Whether the responses that it drops still count in the divisor of the objective's mean.
    """

    low: float = 0.999
    high: float = 1.001
    level: Literal["response", "mean"] = "mean"
    in_divisor: bool = False
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_masked_importance("MaskedImportance", self.low, self.high, self.level)
        check_choice("MaskedImportance", _LEVELS[1:], level=self.level)

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """`masked_importance` of the batch's log-probs, by response."""
        old, rollout, mask = batch.old_log_probs, batch.rollout_log_probs, batch.response_mask
        return masked_importance(old, rollout, mask, low=self.low, high=self.high, level=self.level)
