"""What a response counts for that the length limit cut off: an end, a beginning, or nothing."""

from typing import Literal

import torch
from torch import Tensor

from rl4llm.advantages import bootstrap_truncated
from rl4llm.axes import padded
from rl4llm.batch import AXES, RolloutBatch
from rl4llm.critics import ValueContext, ValueSource

Truncation = Literal["terminal", "bootstrap", "drop", "actor_only"]
TRUNCATIONS = ("terminal", "bootstrap", "drop", "actor_only")


def without_truncated(batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with neither trained tokens nor scores in truncated responses, so that they count nowhere."""
    mask = batch.response_mask & ~batch.truncated[:, None]
    return batch.replace(response_mask=mask, scores=batch.scores.masked_fill(batch.truncated, float("nan")))


@torch.no_grad()
def with_end_values(batch: RolloutBatch, critics: ValueSource, context: ValueContext) -> RolloutBatch:
    """Return the batch with V after the last token of truncated responses as `end_values`, 0 for the others.

    It is 0, too, where the value source does not believe its own value. A value never sees the token at its own
    position, so it is read at one more column, whatever that holds.
    """
    cut = batch.truncated & batch.response_mask.any(-1)
    ends = batch.rewards.new_zeros(len(batch))
    rows = cut.nonzero()[:, 0]
    if len(rows):
        rows = rows[critics.believes(batch.select(rows), context)]
    if len(rows):
        longer = _one_longer(batch.select(rows))
        (values,) = critics.values(longer, context).require("values", by="bootstrap")
        ends[rows] = values.gather(-1, longer.widths[:, None] - 1)[:, 0].to(ends)
    return batch.replace(end_values=ends)


def bootstrapped(batch: RolloutBatch, gamma: float) -> RolloutBatch:
    """Return the batch with the rewards that go on with `end_values`, where it has them."""
    if batch.end_values is None:
        return batch
    rewards = bootstrap_truncated(batch.rewards, batch.end_values, batch.response_mask, gamma=gamma)
    return batch.replace(rewards=rewards)


def spared(masks: Tensor, batch: RolloutBatch) -> Tensor:
    """Return gates (gate batch time) that are False in truncated responses."""
    return masks & ~batch.truncated[None, :, None]


def _one_longer(rows: RolloutBatch) -> RolloutBatch:
    """The rows with one more trained column after the last one of each."""
    width = {"time": rows.response_mask.shape[1] + 1}
    longer = rows.replace(**{name: padded(tensor, AXES[name], width) for name, tensor in rows.tensors().items()})
    columns = torch.arange(width["time"], device=rows.response_mask.device)
    return longer.replace(response_mask=longer.response_mask | (columns == rows.widths[:, None]))
