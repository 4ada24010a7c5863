"""A*-PO: the log-ratio to the reference is regressed on the score above its optimal expectation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_interval, check_response_tensors, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective
from rl4llm.objectives.responses import at_first_token, response_log_ratio, scored_responses


def optimal_advantage_regression(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    scores: Float[Tensor, " batch"],
    optimal_values: Float[Tensor, " batch"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    beta: float = 1e-3,
) -> Float[Tensor, " batch"]:
    """Compute the squared distance of each response from the optimum of KL-regularized RL, given its value.

        ℓ(y) = Σₜ log π_θ(yₜ) − log π_ref(yₜ)        V* = β₁ log E_{y ~ π_ref}[exp(r(y)/β₁)]
        loss = (β ℓ(y) − (r − V*))²

        ∂loss/∂log π_θ(yₜ) = 2β (β ℓ(y) − (r − V*))

    The optimum π* ∝ π_ref exp(r/β) has β ℓ(y) = r − V* for every y, so with β₁ = β the loss vanishes there. On-policy
    its expected gradient is −2β ∇(E[r] − β KL(π_θ‖π_ref)) whatever V* is: a baseline, and one response per prompt is
    enough. At π_θ = π_ref it is REINFORCE with that baseline. V* is estimated from samples of the reference before
    training, see `rl4llm.critics`. r, V* and π_ref are constants; the log-ratio is a sum over tokens, never a mean.

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        ref_log_probs: log π_ref(yₜ), under the frozen reference; constants.
        scores: r, one per response; NaN where it could not be scored.
        optimal_values: V*, that of the prompt, once per response.
        response_mask: True at trained tokens; log-probs are read only there.
        beta: β, strength of the pull towards the reference, above 0.

    Returns:
        Loss of each response, to be minimized, in the dtype of `log_probs`; 0 for one that could not be scored or has
        no trained token.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or beta is not positive.

    Example:
        >>> import torch
        >>> log_probs, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])
        >>> ref, score, value = torch.tensor([[-1.5, -2.5]]), torch.tensor([1.0]), torch.tensor([0.25])
        >>> optimal_advantage_regression(log_probs, ref, score, value, mask, beta=0.5)
        tensor([0.0625])

    References:
        Brantley et al., 2025. arXiv:2505.20686, stage 2 (loss as in the authors' code).
    """
    by = "optimal_advantage_regression"
    check_interval(by, 0.0, float("inf"), "()", beta=beta)
    check_token_tensors(by, response_mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    log_ratios = response_log_ratio(log_probs, ref_log_probs, response_mask)
    check_response_tensors(by, response_mask, scores=scores, optimal_values=optimal_values)
    advantages = at_least_float32(scores.detach()) - at_least_float32(optimal_values.detach())
    residuals = keep(beta * log_ratios - advantages, scored_responses(scores, response_mask))
    return (residuals**2).to(log_probs.dtype)


@dataclass(frozen=True)
class OptimalAdvantageRegression(PolicyObjective):
    """Objective of A*-PO: least squares on the optimal advantage. See [optimal_advantage_regression][].

    V* of a response is what `values` hold at its first trained token; the score includes whatever shaping `rewards`
    hold (`batch.outcomes`). Advantages are not read.

    Args:
        beta: β, strength of the pull towards the reference, above 0.
    """

    beta: float = 1e-3
    reads: ClassVar[tuple[str, ...]] = ("ref_log_probs", "values")
    level: ClassVar[Literal["token", "response"]] = "response"
    anchored: ClassVar[bool] = False
    paper: ClassVar[str] = "2505.20686"

    def __post_init__(self) -> None:
        check_interval("OptimalAdvantageRegression", 0.0, float("inf"), "()", beta=self.beta)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, " batch"]:
        """Return the loss of every response."""
        reference, values = self.take(batch)
        mask = batch.response_mask
        optimal_values = at_first_token(values, mask)
        return optimal_advantage_regression(
            policy.log_probs, reference, batch.outcomes, optimal_values, mask, beta=self.beta
        )
