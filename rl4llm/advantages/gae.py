"""Generalized advantage estimation over response tokens, with a fixed λ or one that grows with the length."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Num
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.advantages.scan import reverse_linear_scan
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, result_dtype


def _estimates(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    gamma: float,
    lam: float | Tensor,
    lam_returns: float | None,
) -> Advantages:
    """Return A for λ (a number, or one per row) and R for λ_returns; 0 where the mask is False."""
    # Trained tokens move to the columns 1, 2, …, so the next column is the next *trained* token; after the last one all
    # is 0. The others share column 0, which no other column reads.
    trained = response_mask.int()
    places = trained.cumsum(-1, dtype=torch.int32).mul_(trained).long()
    deltas, baseline = (
        x.new_zeros(x.shape[0], x.shape[1] + 1).scatter_(-1, places, x)
        for x in map(at_least_float32, (rewards, values))
    )
    deltas.sub_(baseline)[:, :-1].add_(baseline[:, 1:], alpha=gamma)
    advantages = reverse_linear_scan(gamma * lam, deltas)
    targets = advantages if lam_returns is None else reverse_linear_scan(gamma * lam_returns, deltas)
    dtype = result_dtype(rewards, values)
    return Advantages(*(_unpacked(x, places).to(dtype) for x in (advantages, targets + baseline)))


def _unpacked(x: Tensor, places: Tensor) -> Tensor:
    """Return each token's entry from its place, 0 for tokens that are not trained. Overwrites column 0 of x."""
    x[:, 0] = 0
    return x.gather(-1, places)


@torch.no_grad()
def gae(
    rewards: Num[Tensor, "batch time"],
    values: Num[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    lam_returns: float | None = None,
) -> Advantages:
    """Compute generalized advantage estimates over response tokens.

        δₜ = rₜ + γ V(sₜ₊₁) − V(sₜ)          Aₜ = δₜ + γλ Aₜ₊₁          Rₜ = Aₜ(λ_returns) + V(sₜ)

    sₜ is the prefix before token t; t+1 is the next *trained* token of the same row, so masked tokens (padding, tool
    output) are stepped over and add no factor γλ. After the last token V = 0 and A = 0, also for a truncated response.

    Args:
        rewards: rₜ, t in [0, T). Read only where `response_mask` is True.
        values: V(sₜ), t in [0, T). Read only where `response_mask` is True; NaN there makes the estimates up to that
            token NaN, so that the loss shows a critic that has diverged.
        response_mask: True at trained tokens.
        gamma: γ in [0, 1], discount per trained token.
        lam: λ in [0, 1] of the advantages: 0 gives δ, 1 gives the return minus V.
        lam_returns: λ in [0, 1] of the value targets (VC-PPO's decoupling takes 1); that of the advantages when None.

    Returns:
        Advantages and returns, 0 where `response_mask` is False, without graph.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a hyperparameter is outside [0, 1].

    Example:
        >>> rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]])
        >>> mask = torch.tensor([[True, False, True]])
        >>> gae(rewards, values, mask, gamma=1.0, lam=0.5)
        Advantages(advantages=tensor([[0.2500, 0.0000, 0.5000]]), returns=tensor([[0.7500, 0.0000, 1.0000]]))

    References:
        Schulman et al., 2016. arXiv:1506.02438, eq. 16.
        Yuan et al., 2025 (`lam_returns`). arXiv:2503.01491.
    """
    check_token_tensors("gae", response_mask, rewards=rewards, values=values)
    check_interval("gae", 0.0, 1.0, gamma=gamma, lam=lam, lam_returns=lam_returns)
    return _estimates(rewards, values, response_mask, gamma, lam, lam_returns)


@torch.no_grad()
def length_adaptive_gae(
    rewards: Num[Tensor, "batch time"],
    values: Num[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    gamma: float = 1.0,
    alpha: float = 0.05,
    lam_returns: float = 1.0,
) -> Advantages:
    """Compute generalized advantage estimates whose λ grows with the length of the response.

        λ = 1 − 1/(αl), at least 0          Aₜ, Rₜ as in [gae][]

    l counts the trained tokens of the response, so Σ λᵗ ≈ αl: the influence of the last token reaches back over a fixed
    share of the response. Responses of at most 1/α tokens have λ = 0.

    Args:
        rewards: rₜ, t in [0, T). Read only where `response_mask` is True.
        values: V(sₜ), t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        gamma: γ in [0, 1].
        alpha: α > 0, the share of the response over which errors are summed.
        lam_returns: λ in [0, 1] of the value targets; 1 is the discounted return.

    Returns:
        Advantages and returns, 0 where `response_mask` is False, without graph.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a hyperparameter is out of range.

    Example:
        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]])
        >>> length_adaptive_gae(rewards, values, torch.tensor([[True, True]]), alpha=1.0).advantages
        tensor([[0.2500, 0.5000]])

    References:
        Yue et al., 2025 (VAPO). arXiv:2504.05118, §4.2.
    """
    by = "length_adaptive_gae"
    check_token_tensors(by, response_mask, rewards=rewards, values=values)
    check_interval(by, 0.0, 1.0, gamma=gamma, lam_returns=lam_returns)
    check_interval(by, 0.0, ends="(]", alpha=alpha)
    lengths = response_mask.sum(-1, keepdim=True).to(torch.promote_types(result_dtype(rewards, values), torch.float32))
    lam = (1 - 1 / (alpha * lengths)).clamp(0, 1)
    return _estimates(rewards, values, response_mask, gamma, lam, lam_returns)


@dataclass(frozen=True)
class GAE(AdvantageEstimator):
    """Generalized advantage estimation on `values`. See [gae][].

    Responses that could not be scored get advantage and return 0.

    Args:
        gamma: Discount γ in [0, 1].
        lam: λ in [0, 1] of the advantages.
        lam_returns: λ in [0, 1] of the value targets; that of the advantages when None.
    """

    gamma: float = 1.0
    lam: float = 0.95
    lam_returns: float | None = None
    reads: ClassVar[tuple[str, ...]] = ("values",)
    paper: ClassVar[str] = "1506.02438"

    def __post_init__(self) -> None:
        check_interval("GAE", 0.0, 1.0, gamma=self.gamma, lam=self.lam, lam_returns=self.lam_returns)

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages and value targets of every trained token."""
        (values,) = self.take(batch)
        mask = batch.scored_mask
        return gae(batch.rewards, values, mask, gamma=self.gamma, lam=self.lam, lam_returns=self.lam_returns)


@dataclass(frozen=True)
class LengthAdaptiveGAE(AdvantageEstimator):
    """GAE with λ = 1 − 1/(αl) for a response of l tokens. See [length_adaptive_gae][].

    Responses that could not be scored get advantage and return 0.

    Args:
        gamma: Discount γ in [0, 1].
        alpha: α > 0, the share of the response over which errors are summed.
        lam_returns: λ in [0, 1] of the value targets; 1 is the discounted return.
    """

    gamma: float = 1.0
    alpha: float = 0.05
    lam_returns: float = 1.0
    reads: ClassVar[tuple[str, ...]] = ("values",)
    paper: ClassVar[str] = "2504.05118"

    def __post_init__(self) -> None:
        check_interval("LengthAdaptiveGAE", 0.0, 1.0, gamma=self.gamma, lam_returns=self.lam_returns)
        check_interval("LengthAdaptiveGAE", 0.0, ends="(]", alpha=self.alpha)

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages and value targets of every trained token."""
        (values,) = self.take(batch)
        options = {"gamma": self.gamma, "alpha": self.alpha, "lam_returns": self.lam_returns}
        return length_adaptive_gae(batch.rewards, values, batch.scored_mask, **options)
