"""Successful transition replay: what once solved a prompt is learned from again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_interval
from rl4llm.replay.buffer import BufferSpec, Unit


@dataclass(frozen=True)
class SuccessReplay(BufferSpec):
    """Replays single correct responses, as many of each prompt (SoLS, arXiv:2509.01720).

    They are drawn in rounds: one of every prompt that has any left, prompts and successes in random order, until the
    share is filled. So a prompt that was solved once comes as often as one that was solved fifty times, while it lasts.

    Every replayed row is a group of its own: its advantage cannot come from siblings. The paper stores single steps
    of an episode; a whole response is the reading for one-turn tasks.

    Args:
        per_prompt: Successes kept of each prompt, the newest, at least 1.
        share: Replayed rows over all rows of a mixed batch, in [0, 1); a third is two fresh to one replayed.
    """

    per_prompt: int = 50
    share: float = 1 / 3
    paper: ClassVar[str] = "2509.01720"

    def __post_init__(self) -> None:
        check_at_least("SuccessReplay", 1, per_prompt=self.per_prompt)
        check_interval("SuccessReplay", 0.0, 1.0, "[)", share=self.share)

    def cut(self, batch: RolloutBatch) -> Sequence[Tensor]:
        """One unit a success.

        Raises:
            UsageError: If a prompt has no identity.
        """
        if (batch.prompt_uids < 0).any():
            raise UsageError(
                "SuccessReplay: a prompt has no identity (a negative uid), and successes are kept by prompt; give the "
                "prompts uids, or use FIFOReplay."
            )
        return batch.solved.nonzero().unbind()

    def order(self, units: Sequence[Unit], generator: Generator) -> list[int]:
        """In rounds over the prompts, at random within each."""
        rounds: dict[int, list[int]] = {}
        drawn = Counter[int]()
        for index in super().order(units, generator):
            uid = int(units[index].rows.prompt_uids)
            rounds.setdefault(drawn[uid], []).append(index)
            drawn[uid] += 1
        return [index for _, indices in sorted(rounds.items()) for index in indices]

    def retained(self, units: Sequence[Unit]) -> list[Unit]:
        """The newest `per_prompt` of each prompt."""
        newer = Counter[int]()
        retained = []
        for unit in reversed(units):
            uid = int(unit.rows.prompt_uids)
            newer[uid] += 1
            if newer[uid] <= self.per_prompt:
                retained.append(unit)
        return retained[::-1]
