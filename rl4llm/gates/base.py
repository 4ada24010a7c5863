"""The family of gates: `batch -> bool`, True where a token is kept. Gates compose with `&`, `|` and `~`."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, kind_of
from rl4llm.parts import Composite, Part


class Gate(Part):
    """Base class of the gates: the response tokens that contribute to a term of the loss, within `response_mask`.

    Attributes:
        in_divisor: Whether the tokens that it drops still count in the divisor of the term's mean. A gate that says
            what a token is worth keeps them; one that takes responses out of the batch does not.
        each_step: Whether it depends on the policy as it moves, so that the loop evaluates it anew on the rows of every
            optimizer step, with `present_log_probs`. Others are evaluated once, on the whole rollout batch.
    """

    in_divisor: bool = True
    each_step: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return True where the token is kept. Percentiles are taken over the batch that is passed."""

    def counted(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return True where the token counts in the divisor of the term's mean."""
        return batch.response_mask if self.in_divisor else truth_values(self, batch)

    def __and__(self, other: "Gate") -> "Both":
        return Both(self, other)

    def __or__(self, other: "Gate") -> "Either":
        return Either(self, other)

    def __invert__(self) -> "Complement":
        return Complement(self)


def truth_values(gate: Gate, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
    """Call a gate and check that it returns one truth value per response token.

    Raises:
        UsageError: Naming the gate, what it returned and what is expected.
    """
    kept: object = gate(batch)
    shape = tuple(batch.response_mask.shape)
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or tuple(kept.shape) != shape:
        raise UsageError(
            f"{type(gate).__name__} returned {kind_of(kept)}; expected bool of shape {shape}: True where the token is "
            "kept."
        )
    return kept


class _Joined(Composite, Gate):
    @property
    def each_step(self) -> bool:  # type: ignore[override]
        """Whether one of the gates follows the policy."""
        return any(gate.each_step for gate in self.inner if isinstance(gate, Gate))


@dataclass(frozen=True)
class Both(_Joined):
    """Gate that keeps what both gates keep: `first & second`.

    Args:
        first: A gate.
        second: A gate.
    """

    first: Gate
    second: Gate
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return the intersection."""
        return truth_values(self.first, batch) & truth_values(self.second, batch)

    def counted(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return what counts for both gates."""
        return self.first.counted(batch) & self.second.counted(batch)


@dataclass(frozen=True)
class Either(_Joined):
    """Gate that keeps what at least one gate keeps: `first | second`.

    Args:
        first: A gate.
        second: A gate.
    """

    first: Gate
    second: Gate
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return the union."""
        return truth_values(self.first, batch) | truth_values(self.second, batch)

    def counted(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return what counts for at least one gate."""
        return self.first.counted(batch) | self.second.counted(batch)


@dataclass(frozen=True)
class Complement(_Joined):
    """Gate that keeps the response tokens that another gate drops: `~gate`.

    Args:
        gate: A gate.
    """

    gate: Gate
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Return the complement within `response_mask`."""
        return batch.response_mask & ~truth_values(self.gate, batch)

    @property
    def in_divisor(self) -> bool:  # type: ignore[override]
        """Whether dropped tokens count, as for the inner gate."""
        return self.gate.in_divisor
