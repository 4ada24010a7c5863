"""The family of gates: `batch -> bool`, True where a token is kept. Gates compose with `&`, `|` and `~`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from rl4llm.batch import RolloutBatch


class Gate(ABC):
    """Which response tokens a term of the loss may see: always a subset of `response_mask`.

    Attributes:
        needs: Optional fields of the batch that it reads.
        paper: arXiv id of its source.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """True where the token is kept. Percentiles are taken over the batch that is passed."""

    def __and__(self, other: "Gate") -> "Both":
        return Both(self, other)

    def __or__(self, other: "Gate") -> "Either":
        return Either(self, other)

    def __invert__(self) -> "Complement":
        return Complement(self)


@dataclass(frozen=True)
class Both(Gate):
    """Keeps what both gates keep: `first & second`.

    Args:
        first: A gate.
        second: A gate.
    """

    first: Gate
    second: Gate
    paper: ClassVar[str] = ""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the two need."""
        return self.first.needs + self.second.needs

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """The intersection."""
        return self.first(batch) & self.second(batch)


@dataclass(frozen=True)
class Either(Gate):
    """Keeps what at least one gate keeps: `first | second`.

    Args:
        first: A gate.
        second: A gate.
    """

    first: Gate
    second: Gate
    paper: ClassVar[str] = ""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the two need."""
        return self.first.needs + self.second.needs

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """The union."""
        return self.first(batch) | self.second(batch)


@dataclass(frozen=True)
class Complement(Gate):
    """Keeps the response tokens that the gate drops: `~gate`.

    Args:
        gate: A gate.
    """

    gate: Gate
    paper: ClassVar[str] = ""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the gate needs."""
        return self.gate.needs

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """The complement within `response_mask`."""
        return batch.response_mask & ~self.gate(batch)
