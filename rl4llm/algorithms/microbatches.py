"""Cutting a batch by a token budget, and gradients that do not depend on how it was cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class _Unit(NamedTuple):
    """Rows that are never separated, with their longest prompt and response."""

    rows: list[int]
    group: int
    prompt: int
    width: int


class _Piece:
    """A microbatch that grows unit by unit, and the tokens of its passes."""

    def __init__(self, shared: bool) -> None:
        self.shared, self.rows, self.groups, self.prompt, self.width = shared, list[int](), set[int](), 0, 0

    def tokens(self, unit: _Unit | None = None) -> int:
        """Return the tokens that run, padding included, with a further unit if one is given."""
        rows, groups, prompt, width = len(self.rows), len(self.groups), self.prompt, self.width
        if unit is not None:
            rows, groups = rows + len(unit.rows), groups + (unit.group not in self.groups)
            prompt, width = max(prompt, unit.prompt), max(width, unit.width)
        return (groups if self.shared else rows) * prompt + rows * width

    def add(self, unit: _Unit) -> None:
        """Take in a unit."""
        self.rows += unit.rows
        self.groups.add(unit.group)
        self.prompt, self.width = max(self.prompt, unit.prompt), max(self.width, unit.width)


def cut_by_tokens(
    batch: RolloutBatch, max_tokens: int, *, whole_groups: bool = False, shared: bool = False
) -> list[Tensor]:
    """Return the row indices of microbatches that run at most `max_tokens` each, padding included.

    Rows of similar length stand together. Where the model shares prompts, responses to one prompt stand together
    instead if that takes fewer tokens in all. A unit beyond the budget is a microbatch of its own.

    Args:
        batch: The rows.
        max_tokens: Most prompt and response tokens of one pass.
        whole_groups: Whether the responses to one prompt are never separated.
        shared: Whether a pass runs the prompt of several responses once.
    """
    if not len(batch):
        return []
    found = _units_of(batch, whole_groups)
    by_width = sorted(found, key=lambda unit: unit.width)
    cuts = [_cut(by_width, max_tokens, shared)]
    if shared:
        widest = {unit.group: unit.width for unit in by_width}
        cuts.append(_cut(sorted(by_width, key=lambda unit: (widest[unit.group], unit.group)), max_tokens, shared))
    best = min(cuts, key=lambda pieces: sum(piece.tokens() for piece in pieces))
    return [torch.tensor(piece.rows, device=batch.group_ids.device) for piece in best]


def _units_of(batch: RolloutBatch, whole_groups: bool) -> list[_Unit]:
    groups = dense_group_ids(batch.group_ids)[0].tolist()
    prompts, widths = batch.prompt_mask.sum(-1).tolist(), batch.widths.clamp(min=1).tolist()
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(units(batch, whole_groups).tolist()):
        members.setdefault(unit, []).append(row)
    return [
        _Unit(rows, groups[rows[0]], max(prompts[row] for row in rows), max(widths[row] for row in rows))
        for rows in members.values()
    ]


def _cut(ordered: Sequence[_Unit], max_tokens: int, shared: bool) -> list[_Piece]:
    """Fill one microbatch after another."""
    pieces = [_Piece(shared)]
    for unit in ordered:
        if pieces[-1].rows and pieces[-1].tokens(unit) > max_tokens:
            pieces.append(_Piece(shared))
        pieces[-1].add(unit)
    return pieces


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
    shared: bool = False,
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
        shared: Whether a forward pass runs the prompt of several responses once.
        backward: Called with the loss of each microbatch.

    Returns:
        The loss of the step, without graph.
    """
    averaging = Averaging((aggregator,))
    normalizers = averaging.counts(batch) if counts is None else [counts]
    total = torch.zeros((), device=batch.response_mask.device)
    for indices in cut_by_tokens(batch, max_tokens, whole_groups=whole_groups, shared=shared):
        rows = batch.select(indices).trim()
        loss = averaging(losses(rows), rows, normalizers)
        backward(loss)
        total = total + loss.detach()
    return total
