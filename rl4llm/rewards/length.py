"""A charge for responses that come close to the length limit."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Num
from torch import Tensor

from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import check_at_least, check_interval, check_ndim
from rl4llm.masked import at_least_float32, keep
from rl4llm.rewards.shaping import RewardShaping


def overlong_penalty(lengths: Num[Tensor, " batch"], *, max_tokens: int, cache_tokens: int) -> Float[Tensor, " batch"]:
    """Charge that grows from 0 to −1 over the last tokens before the length limit.

        0                                        if |y| ≤ L − C
        (L − C − |y|) / C                        between          L = max_tokens, C = cache_tokens
        −1                                       if |y| ≥ L

    Args:
        lengths: |y|, trained tokens of each response.
        max_tokens: L, the length limit of the responses, at least 1.
        cache_tokens: C, over how many tokens before the limit the charge grows, in [1, L].

    Returns:
        The charge of each response, in [−1, 0], in float32 or wider.

    Raises:
        UsageError: If there is more than one axis, or a hyperparameter is out of range.

    Example:
        >>> import torch
        >>> overlong_penalty(torch.tensor([80, 90, 100, 200]), max_tokens=100, cache_tokens=20)
        tensor([ 0.0000, -0.5000, -1.0000, -1.0000])

    References:
        Yu et al., 2025 (soft overlong punishment). arXiv:2503.14476, eq. 13.
    """
    check_overlong("overlong_penalty", max_tokens, cache_tokens)
    check_ndim("overlong_penalty", 1, axes="batch", lengths=lengths)
    left = (max_tokens - cache_tokens) - at_least_float32(lengths.detach())
    return (left / cache_tokens).clamp(-1.0, 0.0)


def check_overlong(by: str, max_tokens: int, cache_tokens: int) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_at_least(by, 1, max_tokens=max_tokens, cache_tokens=cache_tokens)
    check_interval(by, 1, max_tokens, cache_tokens=cache_tokens)


@dataclass(frozen=True)
class OverlongPenalty(RewardShaping):
    """Charges responses near the length limit, at their last trained token. See [overlong_penalty][].

    Responses that could not be scored are not charged.

    Args:
        max_tokens: The length limit of the responses, at least 1: that of the sampling.
        cache_tokens: Over how many tokens before the limit the charge grows, in [1, max_tokens].
        coef: Largest charge, at least 0.
    """

    max_tokens: int
    cache_tokens: int
    coef: float = 1.0
    paper: ClassVar[str] = "2503.14476"

    def __post_init__(self) -> None:
        check_overlong("OverlongPenalty", self.max_tokens, self.cache_tokens)
        check_interval("OverlongPenalty", 0.0, ends="[)", coef=self.coef)

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """The batch's rewards with the charge."""
        penalty = overlong_penalty(batch.lengths, max_tokens=self.max_tokens, cache_tokens=self.cache_tokens)
        charges = place_scores(self.coef * penalty, batch.scored_mask)
        return (keep(at_least_float32(batch.rewards.detach()), batch.response_mask) + charges).to(batch.rewards.dtype)
