"""Divergence from the reference, subtracted from the reward instead of added to the loss."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_choice, check_interval, check_token_tensors
from rl4llm.kl import KL_ESTIMATORS
from rl4llm.masked import at_least_float32, keep
from rl4llm.rewards.shaping import RewardShaping


def kl_reward(
    rewards: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    coef: float = 1e-3,
    estimator: str = "k1",
) -> Float[Tensor, "batch time"]:
    """Subtract the divergence of the sampling policy from the reference from the token rewards.

        r′ₜ = rₜ − coef · kX(log π_old(yₜ), log π_ref(yₜ))

    With k1 the policy gradient of the charge is exactly −coef · ∇KL(π‖π_ref) (of a state; and, through the return, of
    the whole response), which no estimate differentiated as a penalty gives over a sequence. No graph is returned.

    Args:
        rewards: rₜ, t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy that sampled the tokens.
        ref_log_probs: log π_ref(yₜ), under the frozen reference.
        response_mask: True at trained tokens; the others are read only there.
        coef: Weight of the divergence, at least 0.
        estimator: "k1", "k2" or "k3", see [kl_k1][].

    Returns:
        Rewards in the dtype of `rewards`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, coef is negative or the estimator unknown.

    Example:
        >>> import torch
        >>> old, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
        >>> kl_reward(torch.tensor([[0.0, 1.0]]), old, reference, torch.tensor([[True, True]]), coef=0.1)
        tensor([[-0.0500,  1.1000]])

    References:
        Ziegler et al., 2019. arXiv:1909.08593, eq. 2.
    """
    check_interval("kl_reward", 0.0, ends="[)", coef=coef)
    check_choice("kl_reward", KL_ESTIMATORS, estimator=estimator)
    check_token_tensors(
        "kl_reward", response_mask, rewards=rewards, old_log_probs=old_log_probs, ref_log_probs=ref_log_probs
    )
    divergence = KL_ESTIMATORS[estimator](at_least_float32(old_log_probs.detach()), ref_log_probs, response_mask)
    return (keep(at_least_float32(rewards.detach()), response_mask) - coef * divergence).to(rewards.dtype)


@dataclass(frozen=True)
class KLReward(RewardShaping):
    """Shaping that subtracts the divergence from the frozen reference from the rewards. See [kl_reward][].

    Args:
        coef: Weight, at least 0.
        estimator: "k1", "k2" or "k3".
    """

    coef: float = 1e-3
    estimator: str = "k1"
    reads: ClassVar[tuple[str, ...]] = ("ref_log_probs", "old_log_probs")
    paper: ClassVar[str] = "1909.08593"

    def __post_init__(self) -> None:
        check_interval("KLReward", 0.0, ends="[)", coef=self.coef)
        check_choice("KLReward", KL_ESTIMATORS, estimator=self.estimator)

    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the rewards of the batch minus the divergence."""
        reference, old_log_probs = self.take(batch)
        return kl_reward(
            batch.rewards,
            old_log_probs,
            reference,
            batch.response_mask,
            coef=self.coef,
            estimator=self.estimator,
        )
