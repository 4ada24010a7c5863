"""Gates by the standard deviation of the return from each state on, as predicted by a critic's distribution."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_token_tensors
from rl4llm.gates.ranked import ShareGate
from rl4llm.gates.share import drop_smallest


def wide_returns(
    return_spread: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens with the smallest predicted spread of the return: a control for critics' disagreement.

        keepₜ = maskₜ ∧ sₜ not among the ⌊fraction · n⌋ smallest of the n trained tokens

    s is the uncertainty that remains until the outcome (aleatoric); the spread between critics, by which
    [agreement_gate][rl4llm.gates.agreement.agreement_gate] drops, is the uncertainty of these critics (epistemic). For
    scores of 0 and 1 s orders states as V(1 − V) does ([undecided_states][rl4llm.gates.undecided.undecided_states]);
    with graded scores it carries more information. The n tokens are those of the batch that is passed. Ties at the
    threshold are kept, and so is a NaN ([drop_smallest][]).

    Args:
        return_spread: sₜ, t in [0, T), in units of the return. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        ties: Ranks equal tokens, see [drop_smallest][]; None: ties are kept whole.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> import torch
        >>> wide_returns(torch.tensor([[0.5, 0.1, 0.4]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[ True, False,  True]])

    References:
        A control; no paper. The spread of quantiles: Dabney et al., 2018. arXiv:1710.10044.
    """
    check_token_tensors("wide_returns", response_mask, return_spread=return_spread)
    return drop_smallest(return_spread, response_mask, fraction, ties=ties, by="wide_returns")


def narrow_returns(
    return_spread: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens with the largest predicted spread of the return: a control for `divergence_filter`.

        keepₜ = maskₜ ∧ sₜ not among the ⌊fraction · n⌋ largest of the n trained tokens

    Arguments, ties, NaN, result and errors as in [wide_returns][].

    Example:
        >>> import torch
        >>> narrow_returns(torch.tensor([[0.5, 0.1, 0.4]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[False,  True,  True]])

    References:
        A control; no paper.
    """
    check_token_tensors("narrow_returns", response_mask, return_spread=return_spread)
    return drop_smallest(-return_spread, response_mask, fraction, ties=ties, by="narrow_returns")


@dataclass(frozen=True)
class WideReturns(ShareGate):
    """Gate that drops the tokens with the smallest spread of the return.

    See [wide_returns][rl4llm.gates.spread.wide_returns].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("return_spread",)
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `wide_returns` to `batch.return_spread`."""
        return self.kept_by(wide_returns, batch)


@dataclass(frozen=True)
class NarrowReturns(ShareGate):
    """Gate that drops the tokens with the largest spread of the return.

    See [narrow_returns][rl4llm.gates.spread.narrow_returns].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("return_spread",)
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `narrow_returns` to `batch.return_spread`."""
        return self.kept_by(narrow_returns, batch)
