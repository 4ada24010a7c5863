"""REBEL: differences of log-ratios within a prompt are regressed on differences of scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_group_tensors, check_interval, check_response_tensors, check_token_tensors
from rl4llm.groups import group_count, group_mean
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective
from rl4llm.objectives.responses import response_log_ratio, scored_responses


def rebel(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    scores: Float[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    eta: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Compute the squared errors of all pairs of a group, distributed over its responses.

        aᵢ = (1/η) Σₜ (log π_θ(yᵢₜ) − log π_old(yᵢₜ)) − rᵢ
        lossᵢ = K (aᵢ − ā)²        Σᵢ lossᵢ = Σ_{i<j} (aᵢ − aⱼ)²        (K responses of the group, ā their mean)

        ∂ Σᵢ lossᵢ/∂log π_θ(yᵢₜ) = (2K/η) (aᵢ − ā)

    Each response carries K times its own squared deviation: the sum over a group is that over its pairs, and for two
    responses each carries half of (a₁ − a₂)². A constant added to the scores of a prompt cancels, as does the unknown
    normalizer of π ∝ π_old exp(η r), where the loss vanishes. Gradient reaches a response through its siblings too, so
    a group must not be cut. At π_θ = π_old it is the leave-one-out policy gradient times a constant. π_old is the
    policy that made the batch, not the reference; scores are constants.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        scores: r, one per response; NaN where it could not be scored.
        group_ids: Which group a response belongs to; ragged, in any order.
        response_mask: True at trained tokens; log-probs are read only there.
        eta: η, size of the step away from π_old, above 0.

    Returns:
        Loss of each response, to be minimized, in the dtype of `log_probs`; 0 for one that could not be scored or has
        no trained token (neither has a part in ā and K) and for one that is alone.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or eta is not positive.

    Example:
        >>> import torch
        >>> log_probs, mask = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[True], [True]])
        >>> scores, group_ids = torch.tensor([1.0, 0.0]), torch.tensor([4, 4])
        >>> rebel(log_probs, torch.tensor([[-1.0], [-1.0]]), scores, group_ids, mask, eta=0.5)
        tensor([0.5000, 0.5000])

    References:
        Gao et al., 2024. arXiv:2404.16767, eq. of the regression over pairs (as in the authors' code, over η²).
    """
    check_interval("rebel", 0.0, float("inf"), "()", eta=eta)
    check_token_tensors("rebel", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    log_ratios = response_log_ratio(log_probs, old_log_probs, response_mask)
    check_response_tensors("rebel", response_mask, scores=scores, group_ids=group_ids)
    check_group_tensors("rebel", group_ids)
    counted = scored_responses(scores, response_mask)
    gaps = keep(log_ratios / eta - at_least_float32(scores.detach()), counted)
    deviations = keep(gaps - group_mean(gaps, group_ids, counted), counted)
    return (group_count(group_ids, counted).to(gaps.dtype) * deviations**2).to(log_probs.dtype)


@dataclass(frozen=True)
class REBEL(PolicyObjective):
    """Objective of REBEL: regression on differences of scores within a group. See [rebel][].

    The score includes whatever shaping `rewards` hold (`batch.outcomes`). Advantages are not read.

    Args:
        eta: η, size of the step away from the policy at the start of the update, above 0.
    """

    eta: float = 1.0
    reads: ClassVar[tuple[str, ...]] = ()
    level: ClassVar[Literal["token", "response"]] = "response"
    whole_groups: ClassVar[bool] = True
    smallest_group: ClassVar[int] = 2
    paper: ClassVar[str] = "2404.16767"

    def __post_init__(self) -> None:
        check_interval("REBEL", 0.0, float("inf"), "()", eta=self.eta)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, " batch"]:
        """Return the loss of every response."""
        return rebel(
            policy.log_probs,
            batch.old_log_probs,
            batch.outcomes,
            batch.group_ids,
            batch.response_mask,
            eta=self.eta,
        )
