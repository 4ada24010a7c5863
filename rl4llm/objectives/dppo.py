"""DPPO: a divergence between policies decides which tokens are dropped, not their ratio."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_choice, check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective
from rl4llm.objectives.ratio import token_ratio
from rl4llm.objectives.reinforce import weighted_reinforce


def dppo(
    log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    divergence: Literal["tv", "kl"] = "tv",
    delta_low: float = 0.15,
    delta_high: float = 0.15,
    weight_cap: float | None = None,
) -> Float[Tensor, "batch time"]:
    """Importance-weighted policy gradient under a divergence mask.

        rₜ = π_θ(yₜ) / μ(yₜ),  π = π_θ(yₜ),  μ = μ(yₜ)
        Dₜ = |π − μ|                                              (binary total variation, "tv")
        Dₜ = μ log(μ/π) + (1 − μ) log((1 − μ)/(1 − π))            (binary KL(μ ‖ π), "kl")
        mₜ = 0 if (Aₜ > 0, rₜ > 1, Dₜ > delta_high) or (Aₜ < 0, rₜ < 1, Dₜ > delta_low), else 1
        ℓₜ = −sg[mₜ min(rₜ, weight_cap)] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −mₜ min(rₜ, weight_cap) Aₜ

    A ratio says little of a rare token (from 1e-5 to 1e-3 it is 100, and little has moved) and hides much of a
    frequent one. Both divergences bound that of the whole vocabulary from below. A token that moves back towards μ is
    never dropped. The anchor is the policy that sampled, as the engine reported it.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        rollout_log_probs: log μ(yₜ), as the sampling engine reported them; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        divergence: "tv" or "kl".
        delta_low: Threshold for tokens with negative advantage, at least 0 (paper: 0.15 for tv, 0.05 for kl).
        delta_high: Threshold for tokens with positive advantage, at least 0.
        weight_cap: Largest weight; none when None.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or an option is outside its domain.

    Example:
        >>> log_probs = torch.tensor([[0.9, 1e-3, 0.6]]).log().requires_grad_()
        >>> sampled, mask = torch.tensor([[0.5, 1e-5, 0.9]]).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> dppo(log_probs, sampled, torch.ones(1, 3), mask).sum().backward()
        >>> log_probs.grad.round(decimals=3)
        tensor([[  -0.0000, -100.0000,   -0.6670]])

    References:
        Qi et al., 2026. arXiv:2602.04879 (weights and thresholds as in the authors' code).
    """
    check_dppo("dppo", divergence, delta_low, delta_high, weight_cap)
    new = keep(at_least_float32(log_probs.detach()), response_mask)
    old = keep(at_least_float32(rollout_log_probs.detach()), response_mask)
    check_token_tensors("dppo", response_mask, advantages=advantages)
    distance = binary_tv(new, old) if divergence == "tv" else binary_kl(new, old)
    up = (advantages > 0) & (new > old) & (distance > delta_high)
    down = (advantages < 0) & (new < old) & (distance > delta_low)
    ratios = token_ratio(log_probs, rollout_log_probs, response_mask).detach()
    weights = ratios if weight_cap is None else ratios.clamp(max=weight_cap)
    return weighted_reinforce(log_probs, torch.where(up | down, 0.0, weights), advantages, response_mask)


def check_dppo(
    by: str, divergence: Literal["tv", "kl"], delta_low: float, delta_high: float, weight_cap: float | None
) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_choice(by, ("tv", "kl"), divergence=divergence)
    check_interval(by, 0.0, delta_low=delta_low, delta_high=delta_high)
    check_interval(by, 0.0, ends="(]", weight_cap=weight_cap)


def binary_tv(new: Float[Tensor, "*axes"], old: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """|π − μ| from log-probs: total variation between "this token" and "any other".

    Args:
        new: log π of the token.
        old: log μ of the token.

    Returns:
        A distance in [0, 1], with the shape of the two.

    Example:
        >>> binary_tv(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
        tensor([0.2500])
    """
    return (new.exp() - old.exp()).abs()


def binary_kl(new: Float[Tensor, "*axes"], old: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """KL(μ ‖ π) between "this token" and "any other", from log-probs; finite where a probability rounds to 1.

    Args:
        new: log π of the token.
        old: log μ of the token.

    Returns:
        A divergence ≥ 0, with the shape of the two.

    Example:
        >>> binary_kl(torch.tensor([0.5]).log(), torch.tensor([0.5]).log())
        tensor([0.])
    """
    tiny = torch.finfo(new.dtype).eps
    log_other_new, log_other_old = ((-x.expm1()).clamp(min=tiny).log() for x in (new, old))
    other = -old.expm1()
    return old.exp() * (old - new) + other * (log_other_old - log_other_new)


@dataclass(frozen=True)
class DPPO(PolicyObjective):
    """Policy gradient under a divergence mask. See [dppo][].

    Args:
        divergence: "tv" or "kl".
        delta_low: Threshold for tokens with negative advantage, at least 0 (paper: 0.15 for tv, 0.05 for kl).
        delta_high: Threshold for tokens with positive advantage, at least 0.
        weight_cap: Largest weight; none when None.
    """

    divergence: Literal["tv", "kl"] = "tv"
    delta_low: float = 0.15
    delta_high: float = 0.15
    weight_cap: float | None = None
    paper: ClassVar[str] = "2602.04879"

    def __post_init__(self) -> None:
        check_dppo("DPPO", self.divergence, self.delta_low, self.delta_high, self.weight_cap)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Loss of every response token."""
        (advantages,) = batch.require("advantages", by="DPPO")
        return dppo(
            policy.log_probs,
            batch.rollout_log_probs,
            advantages,
            batch.response_mask,
            divergence=self.divergence,
            delta_low=self.delta_low,
            delta_high=self.delta_high,
            weight_cap=self.weight_cap,
        )
