"""TBRM: the policy's logits are Q-values, and the Bellman residual of a whole response is squared."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_choice, check_interval, check_response_tensors, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective
from rl4llm.objectives.responses import at_first_token, response_log_ratio, scored_responses


def trajectory_bellman_residual(
    log_probs: Float[Tensor, "batch time"],
    initial_logsumexp: Float[Tensor, " batch"],
    ref_log_probs: Float[Tensor, "batch time"],
    scores: Float[Tensor, " batch"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    beta: float = 2e-3,
    ref_initial_logsumexp: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Square the Bellman residual of each response, summed over its tokens.

        Q_θ(s, a) = logit_θ(s, a)        V_θ(s) = log Σₐ exp Q_θ(s, a)        log π_θ = Q_θ − V_θ
        δ = V_θ(s₁) + Σₜ (log π_θ(yₜ) − log π_ref(yₜ)) − r/β        (− V_ref(s₁) where `ref_initial_logsumexp` is given)
        loss = δ²

        ∂loss/∂log π_θ(yₜ) = ∂loss/∂V_θ(s₁) = 2δ

    With reward r/β + Σ log π_ref the token residuals Q(sₜ, yₜ) − log π_ref(yₜ) − V(sₜ₊₁) telescope to δ, which
    vanishes for every response at the soft-optimal Q; β V(s₁) is then the V* of [optimal_advantage_regression][], and
    the loss is that one's over β² with V* = β V_θ(s₁). Nothing of θ is detached. As it stands δ is not 0 at π_θ = π_ref
    without reward; subtracting V_ref(s₁) calibrates that (ReVal). Use the logits that define π_θ: any other
    temperature, scale or cap changes V.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        initial_logsumexp: V_θ(s₁), the log-normalizer at the first trained token, with gradient.
        ref_log_probs: log π_ref(yₜ), under the frozen reference; constants.
        scores: r, one per response; NaN where it could not be scored.
        response_mask: True at trained tokens; log-probs are read only there.
        beta: β, strength of the pull towards the reference, above 0.
        ref_initial_logsumexp: V_ref(s₁), constants; left out when None.

    Returns:
        Loss of each response, to be minimized, in the dtype of `log_probs`; 0 for one that could not be scored or has
        no trained token.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or beta is not positive.

    Example:
        >>> import torch
        >>> log_probs, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])
        >>> ref, score, value = torch.tensor([[-1.5, -2.5]]), torch.tensor([1.0]), torch.tensor([4.0])
        >>> trajectory_bellman_residual(log_probs, value, ref, score, mask, beta=0.5)
        tensor([9.])

    References:
        Yuan et al., 2025. arXiv:2505.15311, algorithm 1 (loss as restated by the paper of ReVal).
    """
    by = "trajectory_bellman_residual"
    check_interval(by, 0.0, float("inf"), "()", beta=beta)
    check_token_tensors(by, response_mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    log_ratios = response_log_ratio(log_probs, ref_log_probs, response_mask)
    check_response_tensors(by, response_mask, initial_logsumexp=initial_logsumexp, scores=scores)
    if ref_initial_logsumexp is not None:
        check_response_tensors(by, response_mask, ref_initial_logsumexp=ref_initial_logsumexp)
    counted = scored_responses(scores, response_mask)
    values = keep(at_least_float32(initial_logsumexp), counted)
    if ref_initial_logsumexp is not None:
        values = values - at_least_float32(ref_initial_logsumexp.detach())
    residuals = keep(values + log_ratios - at_least_float32(scores.detach()) / beta, counted)
    return (residuals**2).to(log_probs.dtype)


@dataclass(frozen=True)
class TrajectoryBellmanResidual(PolicyObjective):
    """Objective of TBRM: squared Bellman residuals of whole responses. See [trajectory_bellman_residual][].

    The score includes whatever shaping `rewards` hold (`batch.outcomes`). Advantages are not read.

    Args:
        beta: β, strength of the pull towards the reference, above 0.
        calibrated: Whether V_ref(s₁) is subtracted, so that the reference without reward has no loss (ReVal).
    """

    beta: float = 2e-3
    calibrated: bool = False
    asks: ClassVar[tuple[str, ...]] = ("logsumexp",)
    level: ClassVar[Literal["token", "response"]] = "response"
    anchored: ClassVar[bool] = False
    paper: ClassVar[str] = "2505.15311"

    def __post_init__(self) -> None:
        check_interval("TrajectoryBellmanResidual", 0.0, float("inf"), "()", beta=self.beta)
        check_choice("TrajectoryBellmanResidual", (True, False), calibrated=self.calibrated)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The reference's log-probs and, when calibrated, its log-normalizers."""
        return ("ref_log_probs", "ref_logsumexp") if self.calibrated else ("ref_log_probs",)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, " batch"]:
        """Return the loss of every response."""
        reference, *normalizers = self.take(batch)
        (logsumexp,) = self.ask(policy)
        return trajectory_bellman_residual(
            policy.log_probs,
            at_first_token(logsumexp, batch.response_mask),
            reference,
            batch.outcomes,
            batch.response_mask,
            beta=self.beta,
            ref_initial_logsumexp=at_first_token(normalizers[0], batch.response_mask) if normalizers else None,
        )
