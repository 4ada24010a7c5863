"""Dealing: from a rollout batch to the minibatches of the optimizer steps, and from those to each rank's share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rl4llm.algorithms.microbatches import Averaging, Counts, cut_by_tokens, units
from rl4llm.algorithms.runtime import Runtime
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.groups import dense_group_ids, first_rows, position_in_group
from rl4llm.masked import keep

TokenFunction = Callable[[RolloutBatch], Tensor]


@dataclass(frozen=True)
class Dealt:
    """Rows of which every rank takes a share, balanced by tokens.

    All ranks hold all rows, so each knows how many microbatches every other one will run.

    Args:
        rows: The rows of all ranks.
        world_size: Number of ranks.
        whole_groups: Whether the responses to one prompt are never separated.
        shared: Whether a forward pass runs the prompt of several responses once.
    """

    rows: RolloutBatch
    world_size: int = 1
    whole_groups: bool = False
    shared: bool = False

    @cached_property
    def shares(self) -> list[Tensor]:
        """Return the row indices of each rank in ascending order."""
        unit = units(self.rows, self.whole_groups)
        if self.world_size == 1 or not len(unit):
            empty = unit[:0]
            return [torch.arange(len(unit), device=unit.device), *[empty] * (self.world_size - 1)]
        rank_of = (self._in_runs(unit) if self.shared else self._apart(unit))[unit]
        return [(rank_of == rank).nonzero()[:, 0] for rank in range(self.world_size)]

    def _apart(self, unit: Tensor) -> Tensor:
        """Return the rank of each unit where every row runs its own prompt."""
        tokens = self.rows.prompt_mask.sum(-1) + self.rows.widths
        return balanced(_per_unit(tokens, unit).tolist(), self.world_size).to(unit.device)

    def _in_runs(self, unit: Tensor) -> Tensor:
        """Return the rank of each unit where a rank is to have responses to the same prompts."""
        groups, _ = dense_group_ids(self.rows.group_ids)
        first = position_in_group(self.rows.group_ids) == 0
        tokens = keep(self.rows.prompt_mask.sum(-1), first) + self.rows.widths
        order = first_rows(unit, int(unit.max()) + 1)
        by_group = groups[order].argsort(stable=True)
        ranks = torch.empty_like(by_group)
        ranks[by_group] = in_runs(_per_unit(tokens, unit)[by_group], self.world_size)
        return ranks

    def microbatches(self, rank: int, max_tokens: int) -> list[Tensor]:
        """Return the row indices of each microbatch of a rank."""
        own = self.shares[rank]
        rows = self.rows.select(own)
        cut = cut_by_tokens(rows, max_tokens, whole_groups=self.whole_groups, shared=self.shared)
        return [own[rows] for rows in cut]

    def pieces(self, rank: int, max_tokens: int) -> Iterator[tuple[Tensor, RolloutBatch]]:
        """Yield a rank's microbatches, trimmed, with the indices of their rows; as many as any other rank has.

        Where a rank has fewer, it gets idle ones: a row of which no token is trained and no index is kept.
        """
        if not len(self.rows):
            return
        own = self.microbatches(rank, max_tokens)
        most = max([len(own), *(len(self.microbatches(r, max_tokens)) for r in range(self.world_size) if r != rank)])
        for rows in own:
            yield rows, self.rows.select(rows).trim()
        for _ in range(most - len(own)):
            first = torch.zeros(1, dtype=torch.long, device=self.rows.group_ids.device)
            yield first[:0], _idle(self.rows.select(first))


def _per_unit(tokens: Tensor, unit: Tensor) -> Tensor:
    return tokens.new_zeros(int(unit.max()) + 1).index_add(0, unit, tokens)


def _idle(row: RolloutBatch) -> RolloutBatch:
    """The row with no token that is trained, kept or counted."""
    masks = {"gates": row.gates, "counted": row.counted, "response_mask": row.response_mask}
    return row.replace(**{n: None if mask is None else torch.zeros_like(mask) for n, mask in masks.items()}).trim()


@dataclass(frozen=True)
class Minibatch(Dealt):
    """The rows of one optimizer step.

    Args:
        counts: What each term of the loss is divided by, for losses per response (1) and per token (2); of all ranks.
    """

    counts: Sequence[Counts] = ()


def deal(
    batch: RolloutBatch,
    updates: Updates,
    averaging: Averaging,
    *,
    generator: torch.Generator,
    world_size: int = 1,
    whole_groups: bool = False,
    shared: bool = False,
) -> Iterator[Minibatch]:
    """Yield the minibatches of all optimizer steps on a rollout batch, in order.

    The rows of each epoch are shuffled once, for all ranks, and cut into minibatches; so which rows share a step does
    not depend on the number of ranks. Every minibatch knows the normalizers of its losses over all ranks.

    Args:
        batch: The rollout batch, the same on every rank.
        updates: Epochs and minibatches.
        averaging: How losses become a scalar.
        generator: Random numbers of the permutation, the same on every rank.
        world_size: Number of ranks that share each minibatch.
        whole_groups: Whether the responses to one prompt are never separated.
        shared: Whether a forward pass runs the prompt of several responses once.
    """
    unit, (groups, count) = units(batch, whole_groups), dense_group_ids(batch.group_ids)
    for chosen in updates.cut(torch.arange(count) if whole_groups else groups.cpu(), generator):
        chosen = chosen.to(unit.device)
        rows = batch.select(torch.isin(unit, chosen) if whole_groups else chosen)
        yield Minibatch(rows, world_size, whole_groups, shared, averaging.counts(rows))


@torch.no_grad()
def map_dealt(
    runtime: Runtime, function: TokenFunction, batch: RolloutBatch, max_tokens: int, *, shared: bool = False
) -> Tensor:
    """Evaluate a function on the whole batch, each rank on its share, and give all ranks the whole result.

    Args:
        runtime: Ranks.
        function: From rows to a tensor whose last two axes are batch and time.
        batch: The rollout batch, the same on every rank.
        max_tokens: Token budget of one forward pass.
        shared: Whether a forward pass runs the prompt of several responses once.
    """
    if not len(batch):
        return function(batch).detach()
    results, example = _all_results(runtime, function, Dealt(batch, runtime.world_size, shared=shared), max_tokens)
    device = batch.response_mask.device
    whole = torch.zeros(*example.shape[:-2], *batch.response_mask.shape, dtype=example.dtype, device=device)
    for rows, piece in results:
        whole[..., rows.to(device), : piece.shape[-1]] = piece.to(device)
    return whole


@torch.no_grad()
def map_rows(runtime: Runtime, function: TokenFunction, batch: RolloutBatch, max_tokens: int) -> Tensor:
    """Evaluate a function with one result per row on the whole batch, as [map_dealt][rl4llm.algorithms.deal.map_dealt].

    Args:
        runtime: Ranks.
        function: From rows to one tensor of the same shape per row.
        batch: The rollout batch, the same on every rank.
        max_tokens: Token budget of one forward pass.
    """
    if not len(batch):
        return function(batch).detach()
    results, example = _all_results(runtime, function, Dealt(batch, runtime.world_size), max_tokens)
    device = batch.response_mask.device
    whole = torch.zeros(len(batch), *example.shape[1:], dtype=example.dtype, device=device)
    for rows, piece in results:
        whole[rows.to(device)] = piece.to(device)
    return whole


def _all_results(
    runtime: Runtime, function: TokenFunction, dealt: Dealt, max_tokens: int
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return all ranks' results with the indices of their rows, and one result of this rank as an example."""
    own = [(rows, function(piece).detach()) for rows, piece in dealt.pieces(runtime.rank, max_tokens)]
    filled = [pair for pair in own if len(pair[0])]
    if runtime.world_size > 1:
        moved = [(rows.cpu(), piece.cpu()) for rows, piece in filled]
        filled = [pair for pairs in runtime.gather(moved) for pair in pairs]
    return filled, own[0][1]


def in_runs(tokens: Tensor, world_size: int) -> Tensor:
    """Assign neighbouring units to the same rank, so that ranks have about the same number of tokens.

    Example:
        >>> in_runs(torch.tensor([5, 1, 4, 2]), 2)
        tensor([0, 0, 1, 1])
    """
    twice = 2 * tokens.cumsum(0) - tokens  # twice the middle of each unit
    total = 2 * tokens.sum().clamp(min=1)
    return (twice * world_size // total).clamp(max=world_size - 1)


def balanced(tokens: list[int], world_size: int) -> Tensor:
    """Assign each unit to a rank so that ranks have about the same number of tokens.

    The longest unit goes first, each to the rank that has least so far (the lowest rank where several do).

    Example:
        >>> balanced([5, 1, 4, 2], 2)
        tensor([0, 0, 1, 1])
    """
    order = sorted(range(len(tokens)), key=lambda unit: (-tokens[unit], unit))
    loads, rank_of = [0] * world_size, torch.zeros(len(tokens), dtype=torch.long)
    for unit in order:
        rank = loads.index(min(loads))
        loads[rank] += tokens[unit]
        rank_of[unit] = rank
    return rank_of
