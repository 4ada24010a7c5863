"""Truncated importance sampling between the engine's policy and the trainer's."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_choice, check_interval
from rl4llm.corrections.base import Correction
from rl4llm.corrections.weights import engine_log_ratio, weight
from rl4llm.masked import keep


def truncated_importance(
    old_log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    cap: float = 2.0,
    level: str = "token",
) -> Float[Tensor, "batch time"]:
    """Importance weights from the engine's policy μ to the trainer's π_old, with a ceiling.

        wₜ = π_old(yₜ) / μ(yₜ)          level "token":    min(wₜ, cap)
                                        level "response": min(Πₜ wₜ, cap) at every token of the response

    The weights are constants. With cap = ∞ they are plain importance sampling: unbiased a response, and of whatever
    variance; a cap trades bias for variance. Computed in logarithms and never above e²⁰.

    Args:
        old_log_probs: log π_old(yₜ), as the trainer computes it, t in [0, T).
        rollout_log_probs: log μ(yₜ), as the engine reported it.
        response_mask: True at trained tokens; the two are read only there.
        cap: Largest weight, at least 1.
        level: "token" or "response".

    Returns:
        Weights in the dtype of `old_log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, a hyperparameter is out of range, or the engine gave no
            log-probs.

    Example:
        >>> import torch
        >>> old, rollout = torch.tensor([[0.3, 0.2, 0.5]]).log(), torch.tensor([[0.1, 0.4, 0.5]]).log()
        >>> truncated_importance(old, rollout, torch.tensor([[True, True, True]]))
        tensor([[2.0000, 0.5000, 1.0000]])

    References:
        As in the code of several frameworks; no paper is known to us.
    """
    check_truncated_importance("truncated_importance", cap, level)
    log_ratio = engine_log_ratio(old_log_probs, rollout_log_probs, response_mask, by="truncated_importance")
    if level == "response":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    return keep(weight(log_ratio, math.log(cap)), response_mask).to(old_log_probs.dtype)


def check_truncated_importance(by: str, cap: float, level: str) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 1.0, cap=cap)
    check_choice(by, ("token", "response"), level=level)


@dataclass(frozen=True)
class TruncatedImportance(Correction):
    """Truncated importance sampling (TIS). See [truncated_importance][].

    Args:
        cap: Largest weight, at least 1.
        level: One weight a token ("token"), or that of the whole response ("response").
    """

    cap: float = 2.0
    level: Literal["token", "response"] = "token"
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_truncated_importance("TruncatedImportance", self.cap, self.level)

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """`truncated_importance` of the batch's log-probs."""
        old, rollout, mask = batch.old_log_probs, batch.rollout_log_probs, batch.response_mask
        return truncated_importance(old, rollout, mask, cap=self.cap, level=self.level)
