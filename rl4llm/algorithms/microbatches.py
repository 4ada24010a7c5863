"""Cutting a batch by a token budget, and gradients that do not depend on how it was cut."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.groups import dense_group_ids
from rl4llm.objectives.aggregate import Aggregator

LossFunction = Callable[[RolloutBatch], Sequence[Tensor]]
Counts = Mapping[int, Tensor]


def units(batch: RolloutBatch, whole_groups: bool) -> Tensor:
    """Which unit each row belongs to: rows of one unit are never separated. A row is a unit, or a whole group is."""
    if whole_groups:
        return dense_group_ids(batch.group_ids)[0]
    return torch.arange(len(batch), device=batch.group_ids.device)


def cut_by_tokens(batch: RolloutBatch, max_tokens: int, *, whole_groups: bool = False) -> Iterator[Tensor]:
    """Row indices of microbatches: rows of similar length together, at most `max_tokens` of prompt and response each.

    A row (or, with `whole_groups`, a group) beyond the budget is a microbatch of its own.
    """
    if not len(batch):
        return
    unit = units(batch, whole_groups)
    sizes = torch.bincount(unit)
    widest = torch.zeros_like(sizes).scatter_reduce(0, unit, batch.widths.clamp(min=1), "amax")
    order = widest.argsort(stable=True)
    columns = widest[order].clamp(min=1)  # trimming leaves empty rows one column
    lengths = (batch.prompt_mask.sum(-1).amax() + columns).tolist()
    rows_before = [0, *sizes[order].cumsum(0).tolist()]
    by_unit = order.argsort()[unit].argsort(stable=True)
    start = 0
    for stop in range(1, len(lengths) + 1):
        rows = rows_before[min(stop + 1, len(lengths))] - rows_before[start]
        if stop == len(lengths) or rows * lengths[stop] > max_tokens:
            yield by_unit[rows_before[start] : rows_before[stop]]
            start = stop


def loss_counts(aggregator: Aggregator, mask: Tensor) -> dict[int, Tensor]:
    """What the losses of an optimizer step are divided by: for losses per response (1 axis) and per token (2 axes)."""
    return {1: aggregator.count(mask.any(-1)), 2: aggregator.count(mask)}


@dataclass(frozen=True)
class Averaging:
    """How each term of a loss becomes one number.

    Args:
        aggregators: One a term, or one for all of them.
        counted: Whether each term is averaged over its slice of the batch's `counted`, where it has one, rather than
            over all trained tokens.
    """

    aggregators: tuple[Aggregator, ...]
    counted: bool = False

    def masks(self, rows: RolloutBatch) -> list[Tensor]:
        """The tokens over which each term is averaged."""
        if rows.counted is None or not self.counted:
            return [rows.response_mask] * len(self.aggregators)
        return list(rows.counted)

    def counts(self, rows: RolloutBatch) -> list[Counts]:
        """What each term is divided by when these rows are the whole optimizer step."""
        return [loss_counts(*one) for one in zip(self.aggregators, self.masks(rows), strict=True)]

    def __call__(self, terms: Sequence[Tensor], rows: RolloutBatch, counts: Sequence[Counts]) -> Tensor:
        """Return what these rows add to the loss of their optimizer step.

            Σ over terms aggregate(term, mask, normalizer = count of the whole step)

        Args:
            terms: Losses per token (batch time) or per response (batch).
            rows: The rows that they are of.
            counts: Normalizers of each term over all microbatches and ranks.
        """
        each = [self.aggregators, self.masks(rows), counts]
        columns = [list(column) * len(terms) if len(column) == 1 else column for column in each]
        sums = []
        for term, aggregator, mask, count in zip(terms, *columns, strict=True):
            over = mask if term.ndim == 2 else mask.any(-1)
            sums.append(aggregator(term, over, normalizer=count[term.ndim]))
        return torch.stack([one.float() for one in sums] if sums[0].dtype != torch.float64 else sums).sum()


def accumulate_gradients(
    batch: RolloutBatch,
    losses: LossFunction,
    aggregator: Aggregator,
    *,
    max_tokens: int,
    counts: Counts | None = None,
    whole_groups: bool = False,
    backward: Callable[[Tensor], None] = lambda loss: loss.backward(),
) -> Tensor:
    """Accumulate the gradients of the aggregated losses of a whole batch, microbatch by microbatch.

        L = Σ over microbatches Σ over terms aggregate(term, mask, normalizer = count of the whole step)

    Any cut gives the gradient of the whole batch, because nothing is divided by a microbatch's own count.

    Args:
        batch: The rows of one optimizer step.
        losses: The terms of the loss of some rows, each per token (batch time) or per response (batch).
        aggregator: How terms become a scalar.
        max_tokens: Token budget of a microbatch.
        counts: Normalizers by number of axes; by default those of `batch`. On several ranks, the sum over ranks.
        whole_groups: Whether the responses to one prompt stay together, for losses that compare them.
        backward: Called with the loss of each microbatch.

    Returns:
        The loss of the step, without graph.
    """
    averaging = Averaging((aggregator,))
    normalizers = averaging.counts(batch) if counts is None else [counts]
    total = torch.zeros((), device=batch.response_mask.device)
    for indices in cut_by_tokens(batch, max_tokens, whole_groups=whole_groups):
        rows = batch.select(indices).trim()
        loss = averaging(losses(rows), rows, normalizers)
        backward(loss)
        total = total + loss.detach()
    return total
