"""The gate of undecided states: no policy gradient where a value already predicts the outcome."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_range, check_token_tensors
from rl4llm.gates.ranked import ShareGate
from rl4llm.gates.share import drop_smallest
from rl4llm.masked import at_least_float32


def undecided_states(
    values: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    low: float = 0.0,
    high: float = 1.0,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens whose value makes the outcome most certain: a control for the spread of critics.

        uₜ = (high − V(sₜ)) (V(sₜ) − low)          keepₜ = maskₜ ∧ uₜ not among the ⌊fraction · n⌋ smallest

    For scores of `low` and `high` u is the variance of the outcome itself, and √u the spread that quantiles of the
    return have. It takes one critic; the disagreement of several is a part of it: with M values of mean V̄,
    V̄(1 − V̄) = meanₘ Vₘ(1 − Vₘ) + σ². If this gate does as well as one by σ, an ensemble is not needed for it. A value
    beyond the bounds is more decided than one at them.

    Args:
        values: V(sₜ), t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        low: Smallest score.
        high: Largest score.
        ties: Ranks equal tokens, see [drop_smallest][]; None: ties are kept whole.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, the fraction is outside [0, 1), or `low` is not below
            `high`.

    Example:
        >>> import torch
        >>> undecided_states(torch.tensor([[0.5, 0.9, 0.6]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[ True, False,  True]])

    References:
        A control; no paper.
    """
    check_range("undecided_states", low=low, high=high)
    check_token_tensors("undecided_states", response_mask, values=values)
    wide = at_least_float32(values.detach())
    return drop_smallest((high - wide) * (wide - low), response_mask, fraction, ties=ties, by="undecided_states")


@dataclass(frozen=True)
class UndecidedStates(ShareGate):
    """Gate that drops the tokens with the most certain outcome. See [undecided_states][].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
        low: Smallest score.
        high: Largest score.
    """

    low: float = 0.0
    high: float = 1.0
    reads: ClassVar[tuple[str, ...]] = ("values",)
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("UndecidedStates", low=self.low, high=self.high)

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `undecided_states` to `batch.values`."""
        return self.kept_by(undecided_states, batch, low=self.low, high=self.high)
