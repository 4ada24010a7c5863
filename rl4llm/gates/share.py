"""Dropping a share of the response tokens: the core of every gate, and two controls that a gate should beat."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_fraction, check_token_tensors
from rl4llm.gates.base import Gate
from rl4llm.gates.noise import content_noise
from rl4llm.gates.ranked import ShareGate
from rl4llm.masked import at_least_float32, keep


def drop_smallest(
    x: Num[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    fraction: float,
    *,
    ties: Float[Tensor, "batch time"] | None = None,
    by: str = "drop_smallest",
) -> Bool[Tensor, "batch time"]:
    """Keep the trained tokens of a batch except the share with the smallest `x`.

        keepₜ = maskₜ ∧ xₜ ≥ x₍ₖ₊₁₎          k = ⌊fraction · n⌋

    n counts the trained tokens of all rows, x₍ᵢ₎ is the i-th smallest of their values. Without ties exactly k are
    dropped. Ties at the threshold are kept and never broken by position: rows may be permuted, and constant `x` drops
    nothing. With `ties` equal tokens are ranked by these instead, and exactly k are dropped, also of a constant `x`. A
    NaN at a trained token counts as the largest value, so that it is kept.

    Args:
        x: What to rank by, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1). A product within rounding of a whole number is that
            number: 0.29 of 100 is 29.
        ties: Ranks equal tokens; numbers that follow from content, as [content_noise][rl4llm.gates.noise.content_noise]
            gives, keep the result independent of the order of the rows. None: ties are kept whole.
        by: Whom an error message names.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> import torch
        >>> drop_smallest(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, True, True, False]]), 0.4)
        tensor([[ True, False,  True, False]])
    """
    check_token_tensors(by, response_mask, x=x)
    check_fraction(by, fraction=fraction)
    wide = at_least_float32(x.detach())
    ranked = keep(wide, response_mask & ~wide.isnan(), math.inf)
    counted = ranked[response_mask]
    dropped = whole_part(fraction, counted.numel())
    if dropped == 0:
        return response_mask.clone()
    if ties is None:
        return response_mask & (ranked >= counted.kthvalue(dropped + 1).values)
    check_token_tensors(by, response_mask, ties=ties)
    order = ties[response_mask].argsort(stable=True)
    order = order[counted[order].argsort(stable=True)]
    kept = response_mask.clone()
    kept[response_mask] = order.argsort() >= dropped
    return kept


def whole_part(fraction: float, count: int) -> int:
    """Return ⌊fraction · count⌋, not one less because a decimal fraction is inexact in binary."""
    product = fraction * count
    nearest = round(product)
    whole = nearest if math.isclose(product, nearest, rel_tol=1e-12) else math.floor(product)
    return max(min(whole, count - 1), 0)


def advantage_magnitude(
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    ties: Float[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time"]:
    """Drop the trained tokens whose advantage is closest to 0: a control that does not use the critics' spread.

        keepₜ = maskₜ ∧ |Aₜ| not among the ⌊fraction · n⌋ smallest of the n trained tokens

    Ties and NaN as in [drop_smallest][]. With one advantage for all tokens of a response, whole responses go together.

    Args:
        advantages: Aₜ, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        ties: Ranks equal tokens, see [drop_smallest][]; None: ties are kept whole.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> import torch
        >>> advantage_magnitude(torch.tensor([[-3.0, 1.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool), fraction=0.4)
        tensor([[ True, False,  True]])

    References:
        A control; no paper.
    """
    check_token_tensors("advantage_magnitude", response_mask, advantages=advantages)
    return drop_smallest(advantages.abs(), response_mask, fraction, ties=ties, by="advantage_magnitude")


def random_gate(
    prompt_uids: Int[Tensor, " batch"],
    response_ids: Int[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.2,
    seed: int = 0,
) -> Bool[Tensor, "batch time"]:
    """Drop trained tokens at random: a control for gates that drop the same share.

        keepₜ = maskₜ ∧ uₜ not among the ⌊fraction · n⌋ smallest of the n trained tokens,          uₜ ~ U[0, 1)

    u follows from the seed and the content of the rows, not from their position; see
    [content_noise][rl4llm.gates.noise.content_noise].

    Args:
        prompt_uids: Identity of the prompts.
        response_ids: Tokens, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        fraction: Share of the trained tokens to drop, in [0, 1).
        seed: Which of the many random gates.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, the fraction is outside [0, 1) or the seed is negative.

    Example:
        >>> import torch
        >>> gate = random_gate(torch.tensor([5]), torch.arange(10)[None], torch.ones(1, 10, dtype=torch.bool))
        >>> gate.sum()
        tensor(8)

    References:
        A control; no paper.
    """
    noise = content_noise(prompt_uids, response_ids, response_mask, seed=seed, by="random_gate")
    return drop_smallest(noise, response_mask, fraction, by="random_gate")


@dataclass(frozen=True)
class AdvantageMagnitude(ShareGate):
    """Gate that keeps the tokens with the largest |A|. See [advantage_magnitude][].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `advantage_magnitude` to `batch.advantages`."""
        return self.kept_by(advantage_magnitude, batch)


@dataclass(frozen=True)
class RandomGate(Gate):
    """Gate that keeps tokens at random. See [random_gate][rl4llm.gates.share.random_gate].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        seed: Which of the many random gates.
    """

    fraction: float = 0.2
    seed: int = 0
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fraction("RandomGate", fraction=self.fraction)
        check_at_least("RandomGate", 0, seed=self.seed)

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `random_gate` to the prompts and responses."""
        ids, mask = batch.response_ids, batch.response_mask
        return random_gate(batch.prompt_uids, ids, mask, fraction=self.fraction, seed=self.seed)
