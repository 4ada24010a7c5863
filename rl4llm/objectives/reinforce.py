"""The plain policy gradient."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective


def reinforce(
    log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the policy-gradient loss: the log-likelihood weighted by the advantage.

        ℓₜ = −Aₜ log π_θ(yₜ)        ∂ℓₜ/∂log π_θ(yₜ) = −Aₜ

    Its gradient is correct only while the policy is the one that sampled the tokens. The value of the loss carries no
    information; gradient flows to `log_probs` only.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> reinforce(torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[1.0, -0.5, 7.0]]), mask)
        tensor([[ 1., -1.,  0.]])

    References:
        Williams, 1992. Simple statistical gradient-following algorithms for connectionist reinforcement learning.
        Ahmadian et al., 2024. arXiv:2402.14740, eq. 6.
    """
    check_token_tensors("reinforce", response_mask, log_probs=log_probs, advantages=advantages)
    costs = keep(-at_least_float32(advantages.detach()), response_mask)
    return (costs * keep(at_least_float32(log_probs), response_mask)).to(log_probs.dtype)


def weighted_reinforce(
    log_probs: Float[Tensor, "batch time"],
    weights: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the policy-gradient loss with constant weights, by which CISPO, DPPO, MinPRO and TOPR differ.

        ℓₜ = −sg[wₜ] Aₜ log π_θ(yₜ)

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        weights: wₜ; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.

    Returns:
        Loss of each token in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> weighted_reinforce(-one, 3.0 * one, 2.0 * one, torch.tensor([[True]]))
        tensor([[6.]])

    References:
        The common form of arXiv:2506.13585, 2602.04879, 2601.22718 and 2503.14286.
    """
    check_token_tensors("weighted_reinforce", response_mask, weights=weights, advantages=advantages)
    products = keep(at_least_float32(weights.detach()), response_mask) * keep(advantages.detach(), response_mask)
    return reinforce(log_probs, products, response_mask)


@dataclass(frozen=True)
class Reinforce(PolicyObjective):
    """Objective of REINFORCE: the plain policy gradient, for strictly on-policy steps. See [reinforce][]."""

    is_policy_gradient: ClassVar[bool] = True
    anchored: ClassVar[bool] = False
    on_policy_only: ClassVar[bool] = True
    paper: ClassVar[str] = "2402.14740"

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the loss of every response token."""
        (advantages,) = self.take(batch)
        return reinforce(policy.log_probs, advantages, batch.response_mask)
