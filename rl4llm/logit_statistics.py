"""Statistics of the tempered logits of some positions, over all tokens or joined from parts, and their gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Statistics of the tempered logits x of some positions, over the whole vocabulary or some of its tokens.

    Attributes:
        logits: x of the ids; 0 where the id is not among the tokens.
        logsumexp: Log-normalizers over the tokens.
        entropies: Of the distribution over the tokens; None unless asked.
    """

    logits: Tensor
    logsumexp: Tensor
    entropies: Tensor | None


def chunk_statistics(x: Tensor, ids: Tensor, *, entropy: bool) -> Statistics:
    """Return the statistics of the tempered logits x, positions × tokens, of which the ids are columns."""
    normalizers = x.logsumexp(-1)
    at, inside = _columns(x, ids)
    own = x.gather(-1, at)[:, 0].where(inside, 0.0)
    if not entropy:
        return Statistics(own, normalizers, None)
    logs = finite_logs(x, normalizers)
    return Statistics(own, normalizers, -logs.exp().mul_(logs).sum(-1))


def joined_statistics(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics over all tokens from those over each part of them.

    L = log Σₖ exp Lₖ      wₖ = exp(Lₖ − L)      H = Σₖ wₖ (Hₖ − log wₖ)
    """
    if len(parts) == 1:
        return parts[0]
    normalizers = torch.stack([part.logsumexp for part in parts], -1)
    logits, whole = torch.stack([part.logits for part in parts], -1).sum(-1), normalizers.logsumexp(-1)
    own = [part.entropies for part in parts if part.entropies is not None]
    if not own:
        return Statistics(logits, whole, None)
    logs = finite_logs(normalizers, whole)
    entropies = torch.stack(own, -1).where(normalizers > -torch.inf, 0.0)  # of a part that cannot occur: NaN
    return Statistics(logits, whole, (logs.exp() * (entropies - logs)).sum(-1))


def _columns(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return a column of x for each id, and whether it is that of the id."""
    inside = (ids >= 0) & (ids < x.shape[-1])
    return ids.clamp(0, x.shape[-1] - 1)[:, None], inside


class Incoming:
    """Incoming gradients of the statistics of all positions, and the gradient of the logits that follows from them.

    Args:
        gradients: Of log-probs, log-normalizers and entropies; None where none arrives.
        ids: The token at each position.
        normalizers: Log-normalizers.
        entropies: Entropies; None where they were not asked for.
    """

    def __init__(
        self, gradients: tuple[Tensor | None, ...], ids: Tensor, normalizers: Tensor, entropies: Tensor | None
    ) -> None:
        self.ids, self.normalizers = ids, normalizers
        self.for_logs, for_normalizers, for_entropies = (
            torch.zeros_like(normalizers) if g is None else g for g in gradients
        )
        self.for_entropies = None if gradients[2] is None else for_entropies
        self.weights = for_normalizers - self.for_logs
        if entropies is not None:
            self.weights = self.weights - for_entropies * entropies
        self.silent = (self.for_logs == 0) & (for_normalizers == 0) & (for_entropies == 0)

    def slope(self, x: Tensor, at: Tensor | slice, first: int = 0) -> Tensor:
        """Return the gradient of the tempered logits x of the positions `at`, for the tokens from the first on."""
        logs = finite_logs(x, self.normalizers[at])
        probs = logs.exp()
        slope = probs * self.weights[at][:, None]
        if self.for_entropies is not None:
            slope -= probs.mul_(logs).mul_(self.for_entropies[at][:, None])
        columns, inside = _columns(x, self.ids[at] - first)
        return slope.scatter_add_(-1, columns, self.for_logs[at].where(inside, 0.0)[:, None])


def finite_logs(x: Tensor, normalizers: Tensor) -> Tensor:
    """Log π, with the most negative number in place of −inf so that π log π is 0 where π is."""
    return (x - normalizers[:, None]).clamp_(min=torch.finfo(x.dtype).min)
