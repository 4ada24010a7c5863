"""DPPO: a divergence between policies decides which tokens are dropped, not their ratio."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError, check_choice, check_interval, check_ndim, check_same_shape, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective, options_of
from rl4llm.objectives.divergences import binary_kl, binary_tv, mass_kl, mass_tv, top_masses
from rl4llm.objectives.reinforce import weighted_reinforce
from rl4llm.ratios import token_ratio
from rl4llm.roles import check_roles

Divergence = Literal["tv", "kl", "topk_tv", "topk_kl"]
_LISTS = ("top_log_probs", "rollout_top_log_probs", "top_ids", "response_ids")


def dppo(
    log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    divergence: Divergence = "tv",
    delta_low: float = 0.15,
    delta_high: float = 0.15,
    weight_cap: float | None = None,
    anchor: Literal["rollout", "old"] = "rollout",
    old_log_probs: Float[Tensor, "batch time"] | None = None,
    top_log_probs: Float[Tensor, "batch time top"] | None = None,
    rollout_top_log_probs: Float[Tensor, "batch time top"] | None = None,
    top_ids: Int[Tensor, "batch time top"] | None = None,
    response_ids: Int[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch time"]:
    """Compute the importance-weighted policy-gradient loss under a divergence mask.

        rₜ = π_θ(yₜ) / μ(yₜ),  π = π_θ(yₜ),  μ = μ(yₜ)
        Dₜ = |π − μ|                                              (binary total variation, "tv")
        Dₜ = μ log(μ/π) + (1 − μ) log((1 − μ)/(1 − π))            (binary KL(μ ‖ π), "kl")
        Dₜ = ½ Σₐ |μ(a) − π(a)|  or  Σₐ μ(a) log(μ(a)/π(a))        ("topk_tv", "topk_kl")
        mₜ = 0 if (Aₜ > 0, rₜ > 1, Dₜ > delta_high) or (Aₜ < 0, rₜ < 1, Dₜ > delta_low), else 1
        ℓₜ = −sg[mₜ min(rₜ, weight_cap)] Aₜ log π_θ(yₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = −mₜ min(rₜ, weight_cap) Aₜ

    A ratio exaggerates the movement of a rare token (from 1e-5 to 1e-3 it is 100) and hides that of a frequent one. In
    the last two, a runs over the engine's K likeliest tokens, the sampled one and one cell for all others. All bound
    the divergence of the whole vocabulary from below, the binary ones most loosely; with K = V the bound is the
    divergence. A token that moves back towards μ is never dropped. The anchor is the policy that sampled, as the engine
    reported it; with `anchor="old"` the mask (all but the weight rₜ) compares with π_old instead.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        rollout_log_probs: log μ(yₜ), as the sampling engine reported them; constants.
        advantages: Aₜ; constants.
        response_mask: True at trained tokens; the others are read only there.
        divergence: "tv", "kl", "topk_tv" or "topk_kl".
        delta_low: Threshold for tokens with negative advantage, at least 0 (paper: 0.15 for tv, 0.05 for kl).
        delta_high: Threshold for tokens with positive advantage, at least 0.
        weight_cap: Largest weight; none when None.
        anchor: "rollout", or "old" for a mask against π_old (binary divergences only).
        old_log_probs: log π_old(yₜ), needed by `anchor="old"`.
        top_log_probs: log π_θ of the listed tokens; these four are needed by the top-K divergences.
        rollout_top_log_probs: log μ of the listed tokens.
        top_ids: The listed tokens: the K likeliest under μ.
        response_ids: yₜ.

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, an option is outside its domain, or a tensor that the
            divergence or the anchor needs is not given.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[0.9, 1e-3, 0.6]]).log().requires_grad_()
        >>> sampled, mask = torch.tensor([[0.5, 1e-5, 0.9]]).log(), torch.ones(1, 3, dtype=torch.bool)
        >>> dppo(log_probs, sampled, torch.ones(1, 3), mask).sum().backward()
        >>> log_probs.grad.round(decimals=3)
        tensor([[  -0.0000, -100.0000,   -0.6670]])

    References:
        Qi et al., 2026. arXiv:2602.04879 (weights, thresholds and anchors as in the authors' code).
    """
    check_dppo("dppo", divergence, delta_low, delta_high, weight_cap, anchor)
    lists = (top_log_probs, rollout_top_log_probs, top_ids, response_ids)
    _check_tensors(divergence, anchor, old_log_probs, lists, response_mask)
    check_token_tensors("dppo", response_mask, log_probs=log_probs, rollout_log_probs=rollout_log_probs)
    check_token_tensors("dppo", response_mask, advantages=advantages)
    anchored = rollout_log_probs if old_log_probs is None or anchor == "rollout" else old_log_probs
    new, old = (keep(at_least_float32(x.detach()), response_mask) for x in (log_probs, anchored))
    if divergence in ("tv", "kl"):
        distances = binary_tv(new, old) if divergence == "tv" else binary_kl(new, old)
    else:
        distances = _top_divergence(divergence, new, old, response_mask, *lists)  # type: ignore[arg-type]
    kept = divergence_mask(new - old, distances, advantages, delta_low=delta_low, delta_high=delta_high)
    ratios = token_ratio(log_probs, rollout_log_probs, response_mask).detach()
    weights = ratios if weight_cap is None else ratios.clamp(max=weight_cap)
    return weighted_reinforce(log_probs, keep(weights, kept), advantages, response_mask)


def divergence_mask(
    log_ratios: Float[Tensor, "batch time"],
    distances: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    *,
    delta_low: float,
    delta_high: float,
) -> Bool[Tensor, "batch time"]:
    """Return False where a token has moved beyond its threshold in the direction of its advantage.

    With distance |r − 1| this is PPO's clip.

    Example:
        >>> import torch
        >>> log_ratios, distances = torch.tensor([[0.1, 0.1, -0.1]]), torch.tensor([[0.3, 0.3, 0.3]])
        >>> divergence_mask(log_ratios, distances, torch.tensor([[1.0, -1.0, -1.0]]), delta_low=0.2, delta_high=0.2)
        tensor([[False,  True, False]])
    """
    check_same_shape("divergence_mask", log_ratios=log_ratios, distances=distances, advantages=advantages)
    check_roles("divergence_mask", advantages=advantages)
    up = (advantages > 0) & (log_ratios > 0) & (distances > delta_high)
    down = (advantages < 0) & (log_ratios < 0) & (distances > delta_low)
    return ~(up | down)


def _top_divergence(
    divergence: str,
    new: Tensor,
    old: Tensor,
    response_mask: Tensor,
    top_log_probs: Tensor,
    rollout_top_log_probs: Tensor,
    top_ids: Tensor,
    response_ids: Tensor,
) -> Tensor:
    listed = response_mask[..., None].expand(top_ids.shape)
    policy = top_masses(new, keep(top_log_probs, listed), response_ids, top_ids)
    behaviour = top_masses(old, keep(rollout_top_log_probs, listed), response_ids, top_ids)
    return mass_tv(policy, behaviour) if divergence == "topk_tv" else mass_kl(policy, behaviour)


def check_dppo(
    by: str,
    divergence: Divergence,
    delta_low: float,
    delta_high: float,
    weight_cap: float | None,
    anchor: Literal["rollout", "old"],
) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_choice(by, ("tv", "kl", "topk_tv", "topk_kl"), divergence=divergence)
    check_choice(by, ("rollout", "old"), anchor=anchor)
    check_interval(by, 0.0, delta_low=delta_low, delta_high=delta_high)
    check_interval(by, 0.0, ends="(]", weight_cap=weight_cap)
    if anchor == "old" and divergence.startswith("topk"):
        raise UsageError(
            f"{by}: anchor='old' goes with divergence='tv' or 'kl', got {divergence!r}; the engine lists the likeliest "
            "tokens of the policy that sampled only, so keep anchor='rollout'."
        )


def _check_tensors(
    divergence: str, anchor: str, old: Tensor | None, lists: tuple[Tensor | None, ...], response_mask: Tensor
) -> None:
    if old is not None:
        check_token_tensors("dppo", response_mask, old_log_probs=old)
    elif anchor == "old":
        raise UsageError("dppo: anchor='old' needs old_log_probs, got None; pass log π_old of the response tokens.")
    named = {name: tensor for name, tensor in zip(_LISTS, lists, strict=True) if tensor is not None}
    missing = [name for name in _LISTS if name not in named]
    if missing and divergence.startswith("topk"):
        raise UsageError(f"dppo: divergence={divergence!r} needs {missing[0]}, got None; or use 'tv' or 'kl'.")
    if "response_ids" in named:
        check_token_tensors("dppo", response_mask, response_ids=named.pop("response_ids"))
    if named:
        check_ndim("dppo", 3, axes="batch time top", **named)
        check_same_shape("dppo", remedy="pass one entry per listed token", **named)
        shapes: dict[str, Any] = {name: x[..., :0].sum(-1) for name, x in named.items()}
        check_token_tensors("dppo", response_mask, **shapes)
        check_roles("dppo", response_mask, **named)


@dataclass(frozen=True)
class DPPO(PolicyObjective):
    """Objective of DPPO: policy gradient under a divergence mask. See [dppo][].

    Args:
        divergence: "tv", "kl", "topk_tv" or "topk_kl".
        delta_low: Threshold for tokens with negative advantage, at least 0 (paper: 0.15 for tv, 0.05 for kl).
        delta_high: Threshold for tokens with positive advantage, at least 0.
        weight_cap: Largest weight; none when None.
        anchor: "rollout", or "old" for a mask against π_old (binary divergences only).
    """

    divergence: Divergence = "tv"
    delta_low: float = 0.15
    delta_high: float = 0.15
    weight_cap: float | None = None
    anchor: Literal["rollout", "old"] = "rollout"
    is_policy_gradient: ClassVar[bool] = True
    paper: ClassVar[str] = "2602.04879"

    def __post_init__(self) -> None:
        check_dppo("DPPO", **options_of(self))

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Advantages and, for the top-K divergences, the engine's lists."""
        return ("advantages", "top_ids", "top_log_probs") if self._lists else ("advantages",)

    @property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        """For the top-K divergences, the policy's log-probs of the engine's lists."""
        return ("top_log_probs",) if self._lists else ()

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        """Only where the divergence is measured against π_old."""
        return self.anchor == "old"

    @property
    def _lists(self) -> bool:
        return self.divergence.startswith("topk")

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the loss of every response token."""
        advantages, *lists = self.take(batch)
        top_ids, rollout_top_log_probs = lists or (None, None)
        (top_log_probs,) = self.ask(policy) or (None,)
        return dppo(
            policy.log_probs,
            batch.rollout_log_probs,
            advantages,
            batch.response_mask,
            old_log_probs=batch.old_log_probs,
            top_log_probs=top_log_probs,
            rollout_top_log_probs=rollout_top_log_probs,
            top_ids=top_ids,
            response_ids=batch.response_ids,
            **options_of(self),
        )
