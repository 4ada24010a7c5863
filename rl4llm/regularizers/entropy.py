"""The entropy bonus."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.gates.base import Gate
from rl4llm.masked import keep
from rl4llm.regularizers.base import Regularizer


def entropy_bonus(
    entropies: Float[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Return the negative entropy of the policy at each token, a penalty to minimize.

        ℓₜ = −H(π_θ(·|sₜ))

    Gradient flows to `entropies`, which must carry that of the policy (as `token_log_probs(..., entropy=True)` gives
    them): then it is the exact gradient of the entropy of each state, not an estimate from the sampled token.

    Args:
        entropies: H(π_θ(·|sₜ)), t in [0, T), at least 0.
        response_mask: True at trained tokens; entropies are read only there.

    Returns:
        Penalty of each token in the dtype of `entropies`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> entropy_bonus(torch.tensor([[0.5, 2.0]]), torch.tensor([[True, False]]))
        tensor([[-0.5000,  0.0000]])

    References:
        Mnih et al., 2016. arXiv:1602.01783, §4.
    """
    check_token_tensors("entropy_bonus", response_mask, entropies=entropies)
    return keep(-entropies, response_mask)


@dataclass(frozen=True)
class EntropyBonus(Regularizer):
    """Regularizer that rewards the entropy of the policy. See [entropy_bonus][].

    Args:
        coef: Weight, at least 0.
        where: Gate that restricts it; all response tokens when None.
    """

    coef: float = 1e-3
    where: Gate | None = None
    asks: ClassVar[tuple[str, ...]] = ("entropies",)
    paper: ClassVar[str] = "1602.01783"

    def __post_init__(self) -> None:
        check_interval("EntropyBonus", 0.0, ends="[)", coef=self.coef)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        (entropies,) = self.ask(policy)
        return self.coef * entropy_bonus(entropies, batch.response_mask)
