"""`smallest`: a batch on which a law is broken, with as little in it as still breaks the law."""

from collections.abc import Callable

import torch
from torch import Tensor

from rl4llm.batch import AXES, RolloutBatch
from rl4llm.groups import dense_group_ids
from rl4llm.testing.views import floats, with_garbage, with_scores


def smallest(
    batch: RolloutBatch, restrict: Callable[[RolloutBatch], RolloutBatch], breaks: Callable[[RolloutBatch], bool]
) -> RolloutBatch:
    """Return a smaller batch that still breaks a law.

    Rows are left out one after another, then columns, then numbers are replaced by rounder ones; a change is kept if
    the law is still broken.

    Args:
        batch: A batch that breaks the law.
        restrict: Brings a changed batch back into the domain; see [Domain][rl4llm.testing.domains.Domain].
        breaks: Whether another batch breaks the law.
    """
    for axis in ("batch", "time"):
        place = 0
        while place < _size(batch, axis) > 1:
            candidate = restrict(_without(batch, axis, place))
            if _size(candidate, axis) < _size(batch, axis) and breaks(candidate):
                batch = candidate
            else:
                place += 1
    for simpler in _SIMPLER:
        candidate = restrict(simpler(batch))
        if breaks(candidate):
            batch = candidate
    return batch


def _size(batch: RolloutBatch, axis: str) -> int:
    return batch.response_mask.shape[AXES["response_mask"].index(axis)]


def _without(batch: RolloutBatch, axis: str, place: int) -> RolloutBatch:
    """Return the batch without one row or column; a score moves to the last token that is left of its response."""
    kept = torch.tensor([i for i in range(_size(batch, axis)) if i != place], dtype=torch.long)
    changes = {
        name: x.index_select(AXES[name].index(axis), kept) for name, x in batch.tensors().items() if axis in AXES[name]
    }
    cut = batch.replace(**changes)
    return cut if axis == "batch" else with_scores(cut, cut.scores)


def _plain_labels(batch: RolloutBatch) -> RolloutBatch:
    groups, _ = dense_group_ids(batch.group_ids)
    flags = {name: torch.zeros_like(x) for name in ("truncated", "replayed") if (x := getattr(batch, name)) is not None}
    return batch.replace(group_ids=groups, prompt_uids=groups, segment_ids=None, policy_version=None, **flags)


def _ranked_scores(batch: RolloutBatch) -> RolloutBatch:
    """Replace scores by 0, 1, 2, ... in their order; equal ones stay equal."""
    known = ~batch.scores.isnan()
    ranks = torch.unique(batch.scores[known], return_inverse=True)[1].to(batch.scores.dtype)
    return with_scores(batch, batch.scores.masked_scatter(known, ranks))


def _unshaped(batch: RolloutBatch) -> RolloutBatch:
    return with_scores(batch, batch.scores)


def _round_scores(batch: RolloutBatch) -> RolloutBatch:
    return with_scores(batch, batch.scores.round())


def _one_critic(batch: RolloutBatch) -> RolloutBatch:
    values = batch.critic_values
    return batch if values is None else batch.replace(critic_values=values[:1], values=values[0])


def _rounded(decimals: int) -> Callable[[RolloutBatch], RolloutBatch]:
    def rounded(batch: RolloutBatch) -> RolloutBatch:
        numbers: dict[str, Tensor] = {name: x for name, x in floats(batch).items() if name not in ("scores", "rewards")}
        return batch.replace(**{name: x.round(decimals=decimals) + 0.0 for name, x in numbers.items()})

    return rounded


def _clean(batch: RolloutBatch) -> RolloutBatch:
    return with_garbage(batch, 0.0)


_SIMPLER = (
    _clean,
    _unshaped,
    _plain_labels,
    _ranked_scores,
    _round_scores,
    _one_critic,
    _rounded(2),
    _rounded(1),
    _rounded(0),
)
