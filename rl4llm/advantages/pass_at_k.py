"""Pass@k training: the group-relative advantage of the best of k, averaged over all k-subsets."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_group_tensors
from rl4llm.groups import group_count, group_sum
from rl4llm.masked import keep, result_dtype, spread


@torch.no_grad()
def pass_at_k(scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], *, k: int) -> Float[Tensor, " batch"]:
    """Compute what a response adds to the chance that the best of k is right, normalized, for binary scores.

        R̄ = 1 − C(N₋, k)/C(N, k)        σ² = R̄ (1 − R̄)        N scored responses, N₋ of them wrong
        A₊ = (1 − R̄)/σ        A₋ = (1 − R̄ − C(N₋ − 1, k − 1)/C(N − 1, k − 1))/σ

    This is the mean, over all subsets of k responses that hold response i, of the subset's best score normalized over
    all subsets. k = 1 is GRPO with the population standard deviation. Where every subset of a group succeeds, where
    none does, or where there are fewer than k scored responses, the group gets 0.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.
        k: Size of the subsets, at least 1.

    Returns:
        One advantage a response, without graph; 0 where the score is NaN.

    Raises:
        UsageError: If shapes differ, k < 1, a score is neither 0 nor 1, or `group_ids` does not hold integers.

    Example:
        >>> pass_at_k(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 0, 0]), k=2)
        tensor([ 1.0000, -0.3333, -0.3333, -0.3333])

    References:
        Pass@k Training, 2025. arXiv:2508.10751 (as in the authors' code).
    """
    check_group_tensors("pass_at_k", group_ids, scores=scores)
    check_at_least("pass_at_k", 1, k=k)
    scored = ~scores.isnan()
    if bool(((scores != 0) & (scores != 1) & scored).any()):
        raise UsageError("pass_at_k: scores must be 0 or 1; threshold them first, for example (scores > 0).float().")
    count = group_count(group_ids, scored).double()
    wrong = group_sum((scores == 0).double(), group_ids, scored)
    failing = choose_ratio(wrong, count, k)
    own = torch.where(scores == 1, 0.0, choose_ratio(wrong - 1, count - 1, k - 1))
    spread_of_best = (failing * (1 - failing)).sqrt()
    signal = scored & (count >= k) & (spread_of_best > 0)
    advantages = (failing - own) / torch.where(signal, spread_of_best, 1.0)
    return keep(advantages, signal).to(result_dtype(scores))


def choose_ratio(subset: Float[Tensor, " batch"], whole: Float[Tensor, " batch"], k: int) -> Float[Tensor, " batch"]:
    """Compute C(subset, k) / C(whole, k) as a product, which does not overflow; 0 where subset < k.

    Example:
        >>> choose_ratio(torch.tensor([3.0, 1.0]), torch.tensor([4.0, 4.0]), 2)
        tensor([0.5000, 0.0000])
    """
    i = torch.arange(k, device=subset.device, dtype=subset.dtype)[:, None]
    return ((subset - i).clamp(min=0) / (whole - i).clamp(min=1)).prod(0)


@dataclass(frozen=True)
class PassAtKTraining(AdvantageEstimator):
    """Advantage estimator of pass@k training, constant over a response. See [pass_at_k][].

    A response counts 1 if the task calls it correct (`batch.solved`) and 0 if not; the rewards must not hold any
    shaping. Responses that could not be scored get 0.

    Args:
        k: Size of the subsets.
    """

    k: int = 4
    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    domain: ClassVar[Literal["real", "non-negative", "binary"]] = "binary"
    paper: ClassVar[str] = "2508.10751"

    def __post_init__(self) -> None:
        check_at_least("PassAtKTraining", 1, k=self.k)

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        outcomes = batch.solved + (batch.outcomes - batch.scores)  # NaN where a response could not be scored
        return Advantages(spread(pass_at_k(outcomes, batch.group_ids, k=self.k), batch.scored_mask))
