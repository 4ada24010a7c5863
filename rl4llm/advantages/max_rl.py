"""MaxRL: the mean score of the group is both the baseline and the scale."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_group_tensors
from rl4llm.groups import centred_in_group, group_mean
from rl4llm.masked import at_least_float32, result_dtype, spread


@torch.no_grad()
def max_rl(scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Centre the scores in their group and divide them by its mean.

        Aᵢ = (rᵢ − r̄) / r̄

    With binary scores and success rate p: (1 − p)/p for a success, −1 for a failure, so rare successes weigh like
    those of a log-likelihood. Defined for scores that are never negative; a group whose mean is 0 gets 0.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ, a score is negative, or `group_ids` does not hold integers.

    Example:
        >>> max_rl(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0]))
        tensor([ 3., -1., -1., -1.])

    References:
        Tajwar et al., 2026 (MaxRL). arXiv:2602.02710, as in the authors' code (github.com/tajwarfahim/maxrl).
    """
    check_group_tensors("max_rl", group_ids, scores=scores)
    if bool((scores < 0).any()):
        raise UsageError(
            "max_rl: scores must not be negative, since the mean is the scale; shift them, or use group_relative."
        )
    scored = ~scores.isnan()
    mean = group_mean(at_least_float32(scores), group_ids, scored)
    centred = centred_in_group(scores, group_ids, scored)
    return (centred / torch.where(mean > 0, mean, 1.0)).to(result_dtype(scores))


@dataclass(frozen=True)
class MaxRL(AdvantageEstimator):
    """Advantage estimator of MaxRL, constant over a response. See [max_rl][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.
    """

    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    domain: ClassVar[Literal["real", "non-negative", "binary"]] = "non-negative"
    invariances: ClassVar[tuple[str, ...]] = ("scale",)
    paper: ClassVar[str] = "2602.02710"

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        return Advantages(spread(max_rl(batch.outcomes, batch.group_ids), batch.scored_mask))
