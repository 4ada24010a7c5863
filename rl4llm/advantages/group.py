"""Group-relative advantages: a response is compared with the other responses to the same prompt."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors
from rl4llm.groups import centred_in_group, group_std
from rl4llm.masked import keep, result_dtype, spread


@torch.no_grad()
def group_relative(
    scores: Num[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    *,
    normalize_std: bool = True,
    unbiased: bool = True,
) -> Float[Tensor, " batch"]:
    """Centre the scores in their group and divide by its standard deviation (GRPO), or only centre them (Dr. GRPO).

        Aᵢ = (rᵢ − r̄) / s          s² = Σⱼ (rⱼ − r̄)² / (n − 1)          (s = 1 when `normalize_std` is False)

    No epsilon is added to s; a group whose scores are all equal gives exactly 0. A score of NaN (could not be scored)
    enters neither r̄, s nor n and gets 0; so does the only scored member of a group.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.
        normalize_std: Whether to divide by s.
        unbiased: Whether s² divides by n − 1 (sample) or by n (population).

    Returns:
        One advantage a response, without graph; the sum over a group is 0.

    Raises:
        UsageError: If shapes differ or `group_ids` does not hold integers.

    Example:
        >>> scores, group_ids = torch.tensor([1.0, 0.0, 0.0, 0.0, 5.0]), torch.tensor([0, 0, 0, 0, 1])
        >>> group_relative(scores, group_ids)
        tensor([ 1.5000, -0.5000, -0.5000, -0.5000,  0.0000])
        >>> group_relative(scores, group_ids, normalize_std=False)
        tensor([ 0.7500, -0.2500, -0.2500, -0.2500,  0.0000])

    References:
        Shao et al., 2024 (GRPO, outcome supervision). arXiv:2402.03300, §4.1.2.
        Liu et al., 2025 (Dr. GRPO, `normalize_std=False`). arXiv:2503.20783.
    """
    check_group_tensors("group_relative", group_ids, scores=scores)
    scored = ~scores.isnan()
    advantages = centred_in_group(scores, group_ids, scored)
    if normalize_std:
        std = group_std(advantages, group_ids, scored, unbiased=unbiased)
        advantages = keep(advantages / std, std != 0)
    return advantages.to(result_dtype(scores))


@dataclass(frozen=True)
class GroupRelative(AdvantageEstimator):
    """Advantage estimator of GRPO and Dr. GRPO, constant over a response. See [group_relative][].

    It compares the batch's `outcomes`, the scores plus per-token shaping. Responses that could not be scored get 0.

    Args:
        normalize_std: Whether to divide by the group's standard deviation; False is Dr. GRPO.
        unbiased: Whether that is the sample (n − 1) or the population (n) standard deviation.
    """

    normalize_std: bool = True
    unbiased: bool = True
    smallest_group: ClassVar[int] = 2
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "group"
    paper: ClassVar[str] = "2402.03300"

    @property
    def invariances(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the invariances; the scale matters unless scores are divided by their standard deviation."""
        return ("shift", "scale") if self.normalize_std else ("shift", "homogeneous")

    def update_scale(self, size: int) -> float | None:
        """Return (n − 1)/n without the division, since the mean holds the response's own score; None with it."""
        return None if self.normalize_std else (size - 1) / size

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        options = {"normalize_std": self.normalize_std, "unbiased": self.unbiased}
        return Advantages(spread(group_relative(batch.outcomes, batch.group_ids, **options), batch.scored_mask))
