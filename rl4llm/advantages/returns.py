"""Monte Carlo returns: the sum of the rewards that follow, with or without a baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.advantages.gae import gae
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval, check_token_tensors


def discounted_returns(
    rewards: Num[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"], *, gamma: float = 1.0
) -> Float[Tensor, "batch time"]:
    """Compute the discounted sum of the rewards from each token on.

        Gₜ = rₜ + γ Gₜ₊₁

    t+1 is the next *trained* token of the row: masked tokens are stepped over and add no factor γ. After the last one G
    = 0. This is [gae][] with V = 0 and λ = 1.

    Args:
        rewards: rₜ, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        gamma: γ in [0, 1], discount a trained token.

    Returns:
        Returns, 0 where `response_mask` is False, without graph.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or `gamma` is outside [0, 1].

    Example:
        >>> mask = torch.tensor([[True, False, True]])
        >>> discounted_returns(torch.tensor([[0.0, 9.0, 1.0]]), mask, gamma=0.5)
        tensor([[0.5000, 0.0000, 1.0000]])

    References:
        Williams, 1992. Simple statistical gradient-following algorithms, Machine Learning 8.
    """
    check_token_tensors("discounted_returns", response_mask, rewards=rewards)
    check_interval("discounted_returns", 0.0, 1.0, gamma=gamma)
    return gae(rewards, torch.zeros_like(rewards), response_mask, gamma=gamma, lam=1.0).advantages


@dataclass(frozen=True)
class MonteCarlo(AdvantageEstimator):
    """Advantage estimator of REINFORCE: returns, minus `values` if the batch holds them. See [discounted_returns][].

    The value targets are the returns. Responses that could not be scored get advantage and return 0.

    Args:
        gamma: Discount γ in [0, 1].
    """

    gamma: float = 1.0
    paper: ClassVar[str] = ""  # older than the methods that use it

    def __post_init__(self) -> None:
        check_interval("MonteCarlo", 0.0, 1.0, gamma=self.gamma)

    def update_scale(self, size: int) -> float:
        """Return 1, because the baseline does not depend on the response."""
        return 1.0

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages and value targets of every trained token."""
        mask = batch.scored_mask
        returns = discounted_returns(batch.rewards, mask, gamma=self.gamma)
        if batch.values is None:
            return Advantages(returns, returns)
        return Advantages(gae(batch.rewards, batch.values, mask, gamma=self.gamma, lam=1.0).advantages, returns)
