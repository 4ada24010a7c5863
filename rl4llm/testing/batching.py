"""The law of cuts: any partition into microbatches and ranks, empty ones included, gives the same update."""

from random import Random
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.groups import dense_group_ids
from rl4llm.masked import keep
from rl4llm.objectives import Aggregator, SequenceMean, TokenMean
from rl4llm.testing.laws import Law, close
from rl4llm.testing.views import attached, in_domain, outputs, own_inputs


def gradients(part: Any, batch: RolloutBatch, aggregator: Aggregator, pieces: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of the aggregated loss of a batch with respect to what the policy gave, taken piece by piece.

    Every piece is divided by the count of the whole batch, as the loop does over microbatches and ranks.

    Args:
        part: An objective or a regularizer.
        batch: The rows of one optimizer step.
        aggregator: From losses to a scalar.
        pieces: Row indices of each piece; together, every row once. A piece may be empty, as a rank may be.

    Returns:
        One gradient for each tensor of the policy's output that the part reads.
    """
    batch = in_domain(part, batch)
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in own_inputs(part, batch).items()}
    masks = {1: batch.response_mask.any(-1), 2: batch.response_mask}
    counts = {axes: aggregator.count(mask) for axes, mask in masks.items()}
    for rows in pieces:
        piece = batch.select(rows)
        (losses,) = outputs(part, piece, {name: leaf[rows] for name, leaf in leaves.items()})
        mask = piece.response_mask if losses.ndim == 2 else piece.response_mask.any(-1)
        aggregator(keep(attached(losses), mask), mask, normalizer=counts[losses.ndim]).backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def partition(batch: RolloutBatch, random: Random, *, whole_groups: bool = False, pieces: int = 3) -> list[Tensor]:
    """Rows dealt to pieces at random, some perhaps empty; with `whole_groups`, groups stay together."""
    unit = dense_group_ids(batch.group_ids)[0] if whole_groups else torch.arange(len(batch))
    dealt = torch.tensor([random.randrange(pieces) for _ in range(int(unit.max()) + 1)])
    return [(dealt[unit] == index).nonzero()[:, 0] for index in range(pieces)]


def any_cut_is_the_whole(part: Any, batch: RolloutBatch, random: Random) -> None:
    """However a batch is dealt to microbatches and ranks, the gradient is that of the whole."""
    cut = partition(batch, random, whole_groups=getattr(part, "whole_groups", False))
    for aggregator in (TokenMean(), SequenceMean()):
        whole = gradients(part, batch, aggregator, [torch.arange(len(batch))])
        pieces = gradients(part, batch, aggregator, cut)
        for name, gradient in whole.items():
            got = pieces.get(name, torch.zeros_like(gradient))
            close(got, gradient, f"cut into {[rows.tolist() for rows in cut]}, the gradient of {name}")


BATCHING = (
    Law(
        "any cut into microbatches and ranks gives the same update",
        any_cut_is_the_whole,
        "return losses per token or response and leave every division to the aggregator",
    ),
)
