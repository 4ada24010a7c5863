"""`Part`: what every part of an algorithm declares, so that whoever composes parts can ask all of them alike."""

from abc import ABC
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch


class Part(ABC):  # noqa: B024 — each family has its own abstract method
    """The base of every family: what a part reads of the batch, asks of the policy, and where it comes from.

    A part that declares nothing reads only what every batch holds and asks for nothing beyond the log-probs.

    Attributes:
        reads: Fields of the batch that it reads beyond those that every batch holds; the loop computes just these.
            `old_log_probs` is named by a part that must have them recomputed by the trainer even before the first step.
        asks: Fields of `PolicyOutput` that it reads beyond the log-probs: "entropies", "logsumexp", "values" or
            "top_log_probs".
        anchored: Whether it compares the policy with `old_log_probs`, which the loop then computes before the first of
            several steps.
        paper: arXiv id of its source.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[tuple[str, ...]] = ()
    anchored: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def take(self, batch: RolloutBatch) -> tuple[Tensor, ...]:
        """The fields that it reads, in the order of `reads`.

        Raises:
            UsageError: If one is not there, naming the part, the field and what provides it.
        """
        return batch.require(*self.reads, by=type(self).__name__)

    def ask(self, policy: PolicyOutput) -> tuple[Tensor, ...]:
        """The outputs that it asks of the policy, in the order of `asks`.

        Raises:
            UsageError: If one is not there, naming the part, the output and the remedy.
        """
        return policy.require(*self.asks, by=type(self).__name__)


class Composite(Part):
    """A part made of others: it reads and asks what they do, and then what it does itself.

    Its inner parts are those of its dataclass fields that hold a part.

    Attributes:
        own_reads: Fields of the batch that it reads itself.
        own_asks: Outputs of the policy that it asks itself.
    """

    own_reads: ClassVar[tuple[str, ...]] = ()
    own_asks: ClassVar[tuple[str, ...]] = ()

    @property
    def inner(self) -> tuple[Part, ...]:
        """The parts that it is made of, in the order of its fields."""
        this: Any = self
        held = [getattr(self, field.name) for field in fields(this)]
        return tuple(part for part in held if isinstance(part, Part))

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner parts read, then what it reads itself, each once."""
        return _once(*(part.reads for part in self.inner), self.own_reads)

    @property
    def asks(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner parts ask, then what it asks itself, each once."""
        return _once(*(part.asks for part in self.inner), self.own_asks)

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        """Whether one of the inner parts is."""
        return any(part.anchored for part in self.inner)


def _once(*names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))
