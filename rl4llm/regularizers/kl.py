"""The penalty for leaving the reference: an estimate of the KL divergence at each token."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_choice, check_interval
from rl4llm.clamping import inclusive_clamp
from rl4llm.gates.base import Gate
from rl4llm.kl import KL_ESTIMATORS, kl_k2
from rl4llm.objectives.base import Aggregator
from rl4llm.regularizers.base import Regularizer


def kl_penalty(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    estimator: str = "k3",
    unbiased_gradient: bool = False,
) -> Float[Tensor, "batch time"]:
    """Compute the KL estimate of each token by name, on request with the unbiased gradient in place of its own.

        kX                     or, with `unbiased_gradient`,  sg[kX] + k2 − sg[k2]        (sg: without gradient)

    The second has the value of kX and the gradient of k2, whose expectation is ∇KL(π_θ‖π_ref). Arguments, result and
    errors as in [kl_k1][].

    Args:
        log_probs: log π_θ(yₜ).
        ref_log_probs: log π_ref(yₜ).
        response_mask: True at trained tokens.
        estimator: "k1", "k2" or "k3".
        unbiased_gradient: Whether the gradient is that of k2.

    Returns:
        The estimate of each token.

    Raises:
        UsageError: If the estimator is unknown, shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[-1.0]], requires_grad=True)
        >>> kl = kl_penalty(log_probs, torch.tensor([[-1.5]]), torch.tensor([[True]]), unbiased_gradient=True)
        >>> kl.item(), torch.autograd.grad(kl.sum(), log_probs)
        (0.10653..., (tensor([[0.5000]]),))

    References:
        Schulman, 2020. Approximating KL divergence.
    """
    check_choice("kl_penalty", KL_ESTIMATORS, estimator=estimator)
    value = KL_ESTIMATORS[estimator](log_probs, ref_log_probs, response_mask)
    if not unbiased_gradient:
        return value
    slope = kl_k2(log_probs, ref_log_probs, response_mask)
    return value.detach() + (slope - slope.detach())


@dataclass(frozen=True)
class KLPenalty(Regularizer):
    """Regularizer that penalizes the divergence from the frozen reference. See [kl_penalty][].

    Args:
        coef: Weight, at least 0.
        estimator: "k3" (positive, unbiased value), "k2" (unbiased gradient) or "k1" (no gradient in expectation).
        where: Gate that restricts it; all response tokens when None.
        unbiased_gradient: Whether the gradient is that of k2, whatever the value.
        clip: Largest estimate of one token; beyond it and below 0 there is no gradient. None: no bound on either side.
        aggregator: How its tokens become one number; None: as those of the objective.
    """

    coef: float = 1e-3
    estimator: str = "k3"
    where: Gate | None = None
    unbiased_gradient: bool = False
    clip: float | None = None
    aggregator: Aggregator | None = None
    reads: ClassVar[tuple[str, ...]] = ("ref_log_probs",)
    paper: ClassVar[str] = "2402.03300"

    def __post_init__(self) -> None:
        check_interval("KLPenalty", 0.0, ends="[)", coef=self.coef)
        check_interval("KLPenalty", 0.0, ends="(]", clip=self.clip)
        check_choice("KLPenalty", KL_ESTIMATORS, estimator=self.estimator)

    @property
    def kl_value(self) -> Literal["exact"] | None:  # type: ignore[override]
        """Return "exact" for k1 and k3, unless clipped."""
        return None if self.estimator == "k2" or self.clip is not None else "exact"

    @property
    def kl_gradient(self) -> Literal["exact", "reverse", "none"] | None:  # type: ignore[override]
        """Exact for k2 and where its gradient is borrowed, unless clipped."""
        if self.clip is not None:
            return None
        own: dict[str, Literal["exact", "reverse", "none"]] = {"k1": "none", "k2": "exact", "k3": "reverse"}
        return "exact" if self.unbiased_gradient else own[self.estimator]

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        (reference,) = self.take(batch)
        estimate = kl_penalty(
            policy.log_probs,
            reference,
            batch.response_mask,
            estimator=self.estimator,
            unbiased_gradient=self.unbiased_gradient,
        )
        return self.coef * (estimate if self.clip is None else inclusive_clamp(estimate, 0.0, self.clip))
