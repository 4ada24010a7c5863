"""Imitation added to the objective: the likelihood of tokens that are known to be good."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.gates.base import Gate
from rl4llm.masked import keep
from rl4llm.regularizers.base import Regularizer


def likelihood_bonus(
    log_probs: Float[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Return the negative log-likelihood of each token, a penalty to minimize.

        ℓₜ = −log π_θ(yₜ)        ∂ℓₜ/∂log π_θ(yₜ) = −1

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        response_mask: True at trained tokens; log-probs are read only there.

    Returns:
        Penalty of each token in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> likelihood_bonus(torch.tensor([[-0.5, -2.0]]), torch.tensor([[True, False]]))
        tensor([[0.5000, 0.0000]])

    References:
        VAPO, 2025. arXiv:2504.05118, the loss on correct responses.
    """
    check_token_tensors("likelihood_bonus", response_mask, log_probs=log_probs)
    return keep(-log_probs, response_mask)


@dataclass(frozen=True)
class Likelihood(Regularizer):
    """Regularizer that rewards the log-likelihood, for use with a gate on correct responses. See [likelihood_bonus][].

    Args:
        coef: Weight, at least 0.
        where: Gate that restricts it; all response tokens when None.
    """

    coef: float = 0.1
    where: Gate | None = None
    paper: ClassVar[str] = "2504.05118"

    def __post_init__(self) -> None:
        check_interval("Likelihood", 0.0, ends="[)", coef=self.coef)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        return self.coef * likelihood_bonus(policy.log_probs, batch.response_mask)
