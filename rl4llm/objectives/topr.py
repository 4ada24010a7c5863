"""TOPR: full weight to good responses, weight at most 1 to bad ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_choice, check_token_tensors
from rl4llm.masked import at_least_float32, masked_sum
from rl4llm.objectives.base import RatioObjective
from rl4llm.objectives.reinforce import weighted_reinforce
from rl4llm.ratios import token_log_ratio


def topr(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    whole_response: bool = True,
) -> Float[Tensor, "batch time"]:
    """Compute the policy-gradient loss with tapered importance weights for bad tokens.

        ρ = Π over the response of π_θ(yₜ) / π_old(yₜ)   (of the token alone unless `whole_response`)
        wₜ = 1 where Aₜ > 0,   clip(ρ, 0, 1) elsewhere
        ℓₜ = −sg[wₜ] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −wₜ Aₜ

    Good responses are imitated whatever their present probability; the weight of bad ones fades as they become
    unlikely.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        whole_response: Whether the weight is that of the whole response (the paper) or of the token.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or `whole_response` is not a truth value.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.25, 0.5], [1.0, 1.0]]).log(), torch.ones(2, 2, dtype=torch.bool)
        >>> topr(log_probs, old, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-1.0000, -1.0000],
                [ 0.2500,  0.2500]])

    References:
        Le Roux et al., 2025. arXiv:2503.14286, as in framework code that cites it.
    """
    check_topr("topr", whole_response)
    check_token_tensors("topr", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    log_ratios = token_log_ratio(at_least_float32(log_probs.detach()), old_log_probs, response_mask)
    log_weights = masked_sum(log_ratios, response_mask, dim=-1)[:, None] if whole_response else log_ratios
    weights = torch.where(advantages > 0, 1.0, log_weights.clamp(max=0.0).exp())
    return weighted_reinforce(log_probs, weights, advantages, response_mask)


def check_topr(by: str, whole_response: bool) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_choice(by, (True, False), whole_response=whole_response)


@dataclass(frozen=True)
class TOPR(RatioObjective):
    """Objective of TOPR: policy gradient with tapered weights for bad tokens. See [topr][].

    Args:
        whole_response: Whether the weight is that of the whole response (the paper) or of the token.
    """

    whole_response: bool = True
    paper: ClassVar[str] = "2503.14286"
    function = staticmethod(topr)
    check = staticmethod(check_topr)
