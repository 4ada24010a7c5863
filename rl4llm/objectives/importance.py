"""The policy gradient with importance weights and no bound on them."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import token_ratio


def importance_weighted(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the importance-weighted policy loss without a trust region.

        rₜ = π_θ(yₜ) / π_old(yₜ)        ℓₜ = −rₜ Aₜ        ∂ℓₜ/∂log π_θ(yₜ) = −rₜ Aₜ

    Gradient flows to `log_probs` only. The ratio is continued by its tangent above e²⁰, see [tangent_exp][].

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> log_probs, mask = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[True, True]])
        >>> importance_weighted(log_probs, torch.tensor([[0.25, 0.25]]).log(), torch.tensor([[1.0, -3.0]]), mask)
        tensor([[-2.,  3.]])

    References:
        Schulman et al., 2017. arXiv:1707.06347, eq. 6.
    """
    check_token_tensors(
        "importance_weighted", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    costs = keep(-at_least_float32(advantages.detach()), response_mask)
    return (costs * token_ratio(log_probs, old_log_probs, response_mask)).to(log_probs.dtype)


@dataclass(frozen=True)
class ImportanceWeighted(RatioObjective):
    """Objective with importance weights and no trust region: the baseline for clipping. See [importance_weighted][]."""

    paper: ClassVar[str] = "1707.06347"
    function = staticmethod(importance_weighted)
