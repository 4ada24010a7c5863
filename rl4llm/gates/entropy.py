"""The entropy gates: they rank tokens by how decided the policy was."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_token_tensors
from rl4llm.gates.ranked import ShareGate
from rl4llm.gates.share import drop_smallest


def high_entropy(
    entropies: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.8,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens where the policy was most decided and keep the forks of the reasoning.

        keepₜ = maskₜ ∧ Hₜ not among the ⌊fraction · n⌋ smallest of the n trained tokens

    The n tokens are those of the batch that is passed. Ties at the threshold are kept, and so is a NaN entropy
    ([drop_smallest][]). The paper names the share that is kept, 20 %; `fraction` is the share that is dropped.

    Args:
        entropies: Hₜ = H(π(·|sₜ)), t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        ties: Ranks equal tokens, see [drop_smallest][]; None: ties are kept whole.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> import torch
        >>> high_entropy(torch.tensor([[0.1, 2.0, 0.3]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.7)
        tensor([[False,  True, False]])

    References:
        Wang et al., 2025. arXiv:2506.01939, section 5 (training on the tokens of highest entropy).
    """
    check_token_tensors("high_entropy", response_mask, entropies=entropies)
    return drop_smallest(entropies, response_mask, fraction, ties=ties, by="high_entropy")


def low_entropy(
    entropies: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens where the policy was least decided: a control for the filter by the critics' spread.

        keepₜ = maskₜ ∧ Hₜ not among the ⌊fraction · n⌋ largest of the n trained tokens

    Arguments, ties, NaN, result and errors as in [high_entropy][].

    Example:
        >>> import torch
        >>> low_entropy(torch.tensor([[0.1, 2.0, 0.3]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[ True, False,  True]])

    References:
        A control; no paper.
    """
    check_token_tensors("low_entropy", response_mask, entropies=entropies)
    return drop_smallest(-entropies, response_mask, fraction, ties=ties, by="low_entropy")


@dataclass(frozen=True)
class HighEntropy(ShareGate):
    """Gate that keeps the tokens of highest entropy. See [high_entropy][rl4llm.gates.entropy.high_entropy].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    fraction: float = 0.8
    reads: ClassVar[tuple[str, ...]] = ("entropies",)
    paper: ClassVar[str] = "2506.01939"

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `high_entropy` to `batch.entropies`."""
        return self.kept_by(high_entropy, batch)


@dataclass(frozen=True)
class LowEntropy(ShareGate):
    """Gate that drops the tokens of highest entropy. See [low_entropy][rl4llm.gates.entropy.low_entropy].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("entropies",)
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `low_entropy` to `batch.entropies`."""
        return self.kept_by(low_entropy, batch)
