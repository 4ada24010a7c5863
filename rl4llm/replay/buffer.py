"""What every store of earlier responses shares: what is kept of a row, how rows are drawn, and how it is saved."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from rl4llm.batch import SOURCES, RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.masked import keep
from rl4llm.replay.base import Replay, ReplaySpec

_FORGOTTEN = dict.fromkeys(name for name, source in SOURCES.items() if source not in ("engine", "task"))


class Unit(NamedTuple):
    """Rows that are stored, drawn and dropped together.

    Attributes:
        rows: On the CPU, trimmed, without graph; what describes the responses and how they were made.
        age: How many times `add` was called since.
    """

    rows: RolloutBatch
    age: int


class BufferSpec(ReplaySpec):
    """A frozen choice of what is stored together and what stays.

    Attributes:
        share: Replayed rows over all rows of a mixed batch, in [0, 1).
    """

    share: float

    @abstractmethod
    def cut(self, batch: RolloutBatch) -> Sequence[Tensor]:
        """Rows of each new unit, from fresh rows that could be scored."""

    def order(self, units: Sequence[Unit], generator: Generator) -> list[int]:
        """Indices of the units in the order in which they are drawn; any order is as likely as any other by default."""
        return torch.randperm(len(units), generator=generator, device=generator.device).tolist()

    @abstractmethod
    def retained(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that stay, of all there are, oldest first; in the same order."""

    def build(self) -> "ReplayBuffer":
        """An empty store."""
        return ReplayBuffer(self)


class ReplayBuffer(Replay):
    """A store of units, drawn without replacement until they make up a share of the mixed batch.

    A stored row holds prompt, response, score, the log-probs of the policy and the engine of that time and, where
    there, whatever else the engine gave: entropies, top tokens, the version of the policy. `rewards` are the scores
    alone, since shaping is charged anew at every step. What depends on the present policy, critics or reference is not
    stored.

    Args:
        spec: What makes up a unit, which units stay, and the share.
    """

    def __init__(self, spec: BufferSpec) -> None:
        super().__init__()
        self.spec = spec
        self.units: tuple[Unit, ...] = ()

    def __len__(self) -> int:
        """Responses in the store."""
        return sum(len(unit.rows) for unit in self.units)

    def mix(self, batch: RolloutBatch, generator: Generator) -> RolloutBatch:
        """Fresh rows, then about share / (1 − share) times as many replayed ones; fewer while the store holds fewer.

        Units are whole, so the number is rounded to the nearest that they make up in the order drawn. A field that
        fresh or replayed rows lack is left out of the mixed batch ([RolloutBatch.cat][]).

        Args:
            batch: Fresh rows, scored. Not changed.
            generator: Decides what is drawn; nothing else does.

        Returns:
            A batch on the device of `batch`, with `replayed`.
        """
        flags = torch.zeros_like(batch.truncated) if batch.replayed is None else batch.replayed
        fresh, drawn = batch.replace(replayed=flags), self._draw(len(batch), generator)
        if not drawn:
            return fresh
        unused = int(batch.group_ids.max()) + 1
        named = [
            rows.to(flags.device).replace(
                group_ids=torch.full_like(batch.group_ids[:1], unused + index).expand(len(rows)),
                replayed=torch.ones(len(rows), dtype=torch.bool, device=flags.device),
            )
            for index, rows in enumerate(drawn)
        ]
        return RolloutBatch.cat([fresh, *named])

    def _draw(self, fresh: int, generator: Generator) -> list[RolloutBatch]:
        wanted, count = fresh * self.spec.share / (1 - self.spec.share), 0
        drawn = []
        for index in self.spec.order(self.units, generator):
            rows = self.units[index].rows
            if count + len(rows) / 2 > wanted:
                break
            drawn.append(rows)
            count += len(rows)
        return drawn

    def add(self, batch: RolloutBatch) -> None:
        """Keep what may be replayed of the fresh rows that could be scored, and drop what is too old or too much.

        Raises:
            UsageError: If the engine gave no log-probs (NaN at a trained token).
        """
        fresh = ~batch.scores.isnan() if batch.replayed is None else ~batch.scores.isnan() & ~batch.replayed
        rows = batch.replace(**_FORGOTTEN).select(fresh)
        if keep(rows.rollout_log_probs, rows.response_mask).isnan().any():
            raise UsageError(
                f"{type(self.spec).__name__}: rollout_log_probs are NaN; replay needs the log-probs of the policy that "
                "made each response; use an engine that reports them."
            )
        rewards = place_scores(rows.scores, rows.response_mask).to(rows.rewards.dtype)
        rows = rows.replace(rewards=rewards).to("cpu")
        older = [Unit(unit.rows, unit.age + 1) for unit in self.units]
        newer = [Unit(_compact(rows.select(index)), 0) for index in self.spec.cut(rows)]
        self.units = tuple(self.spec.retained(older + newer))

    def get_extra_state(self) -> dict[str, Any]:
        """Every stored tensor by field name, and ages."""
        return {"rows": [unit.rows.tensors() for unit in self.units], "ages": [unit.age for unit in self.units]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """What `get_extra_state` gave, back on the CPU."""
        stored = zip(state["rows"], state["ages"], strict=True)
        self.units = tuple(Unit(RolloutBatch(**rows).to("cpu"), age) for rows, age in stored)


def _compact(rows: RolloutBatch) -> RolloutBatch:
    """Trimmed copies, so that neither a graph nor the storage of the whole batch is held."""
    return rows.replace(**{name: tensor.detach().clone() for name, tensor in rows.trim().tensors().items()})
