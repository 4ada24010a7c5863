"""The divergence filter: no entropy bonus where the critics diverge most."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_critic_values
from rl4llm.critic_values import critic_std
from rl4llm.gates.ranked import ShareGate
from rl4llm.gates.share import drop_smallest
from rl4llm.masked import at_least_float32


def divergence_filter(
    critic_values: Float[Tensor, "critic batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens where the critics diverge most, because exploration there follows noise.

        keepₜ = maskₜ ∧ σₜ ∉ Top(σ)          σₜ = std over critics of Vₘ(sₜ)

    Top(σ) holds the ⌊fraction · n⌋ largest of the n trained tokens of the batch that is passed; ties at the threshold
    are kept, and so is a NaN spread ([drop_smallest][] of −σ). One critic, or identical ones, drop nothing.

    Args:
        critic_values: Vₘ(sₜ), m in [0, M), t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        ties: Ranks equal tokens, see [drop_smallest][]; None: ties are kept whole.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes do not match, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> import torch
        >>> critic_values = torch.tensor([[[0.0, 0.0, 0.0]], [[0.1, 0.9, 0.5]]])
        >>> divergence_filter(critic_values, torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[ True, False,  True]])

    References:
        Liu et al., 2025. arXiv:2510.01656, as public notes of the paper have it.
    """
    check_critic_values("divergence_filter", critic_values, response_mask)
    spread = critic_std(at_least_float32(critic_values))
    return drop_smallest(-spread, response_mask, fraction, ties=ties, by="divergence_filter")


@dataclass(frozen=True)
class DivergenceFilter(ShareGate):
    """Gate that drops the tokens where the critics diverge most.

    See [divergence_filter][rl4llm.gates.divergence.divergence_filter].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("critic_values",)
    paper: ClassVar[str] = "2510.01656"

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `divergence_filter` to `batch.critic_values`."""
        return self.kept_by(divergence_filter, batch)
