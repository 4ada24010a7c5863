"""The law of whitening: mean 0 and variance 1, over what its level counts."""

from random import Random

import torch
from torch import Tensor

from rl4llm.advantages import Whiten
from rl4llm.batch import RolloutBatch
from rl4llm.testing.laws import Law
from rl4llm.testing.views import outputs


def _samples(part: Whiten, numbers: Tensor, batch: RolloutBatch) -> list[Tensor]:
    """What is whitened together: all tokens, all means of responses, or those of each group."""
    rows = [numbers[row][mask] for row, mask in enumerate(batch.scored_mask)]
    if part.level == "token":
        return [torch.cat(rows)]
    groups = {int(group) if part.level == "group" else 0 for group in batch.group_ids}
    own = [0 if part.level == "response" else int(group) for group in batch.group_ids]
    means = [[row.mean() for row, of in zip(rows, own, strict=True) if of == group and len(row)] for group in groups]
    return [torch.stack(mean) for mean in means if mean]


def mean_zero_variance_one(part: Whiten, batch: RolloutBatch, random: Random) -> None:
    """Over what the level counts, the mean is 0 and the variance 1, or all are 0 where they were equal."""
    (advantages,) = batch.require("advantages", by="whiten_laws")
    for before, after in zip(*(_samples(part, x, batch) for x in (advantages, outputs(part, batch)[0])), strict=True):
        if len(before) < 2 or before.max() - before.min() < 1e-13:
            assert after.abs().max() < 1e-6 if len(after) else True, f"equal numbers become {after.tolist()}"
            continue
        variance = after.var(correction=int(part.unbiased))
        assert abs(after.mean()) < 1e-9, f"at level {part.level!r} the mean is {after.mean():.6g}"
        assert abs(variance - 1) < 1e-6, f"at level {part.level!r} the variance is {variance:.6g}"


WHITEN = (
    Law(
        "mean 0 and variance 1 at its level",
        mean_zero_variance_one,
        "take mean and variance over what the level counts: tokens, or one mean a response",
    ),
)
