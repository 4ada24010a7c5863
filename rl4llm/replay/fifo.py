"""First in, first out: the newest groups of responses are replayed whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_interval
from rl4llm.replay.buffer import BufferSpec, Unit


@dataclass(frozen=True)
class FIFOReplay(BufferSpec):
    """Replays the newest groups of responses, good and bad, whole, so that group-relative estimators still work.

    Whoever learns from them needs an objective that corrects for the older policy: the ratio of the ordinary ones is
    to `old_log_probs`, which a replayed row keeps from when it was drawn.

    Args:
        capacity: Most responses in the store, at least 1; beyond it the oldest groups go. A group that alone exceeds it
            leaves the store empty.
        share: Replayed rows over all rows of a mixed batch, in [0, 1).
        max_age: Steps for which a group may be replayed, at least 1; None: as long as there is room.
    """

    capacity: int = 1024
    share: float = 0.5
    max_age: int | None = None
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_at_least("FIFOReplay", 1, capacity=self.capacity, max_age=self.max_age)
        check_interval("FIFOReplay", 0.0, 1.0, "[)", share=self.share)

    def cut(self, batch: RolloutBatch) -> list[Tensor]:
        """One unit a group."""
        names = dict.fromkeys(batch.group_ids.tolist())  # by first appearance
        return [(batch.group_ids == name).nonzero()[:, 0] for name in names]

    def retained(self, units: Sequence[Unit]) -> list[Unit]:
        """The newest groups whose responses fit."""
        retained, count = [], 0
        for unit in reversed(units):
            count += len(unit.rows)
            if count > self.capacity or (self.max_age is not None and unit.age >= self.max_age):
                break
            retained.append(unit)
        return retained[::-1]
