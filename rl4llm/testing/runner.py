"""Runs laws on a part and says all that are broken, with the smallest counterexample of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from textwrap import wrap
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rl4llm.batch import RolloutBatch
from rl4llm.testing.domains import EVERYTHING, NARROW, SAID, Domain
from rl4llm.testing.laws import Law
from rl4llm.testing.shrinking import smallest
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.views import describe, unchecked


@dataclass(frozen=True)
class Broken:
    """A law that a part breaks.

    Args:
        law: Which.
        reason: What was seen.
        example: The smallest batch found on which it is broken; None if none could be drawn.
        part: What breaks it.
        also: Names of the other laws that are broken for the same cause.
        remedy: What usually mends the part.
        kind: The kind of batch on which alone they are broken, as a field of
            [Domain][rl4llm.testing.domains.Domain]; None: they are broken on plain batches.
    """

    law: Law
    reason: str
    example: RolloutBatch | None
    part: Any = None
    also: tuple[str, ...] = ()
    remedy: str = ""
    kind: str | None = None

    def __str__(self) -> str:
        lines = [f"  ✗ {self.law.name}", f"    {self.reason}", f"    remedy: {self.remedy or self.law.remedy}"]
        if self.kind is not None:
            option = f'{self.kind}="{NARROW[self.kind]}"'
            lines.append(f"    or, if it is not made for {SAID[self.kind]}: check(..., {option})")
        shown = "" if self.example is None else describe(self.example, self.part)
        if shown:
            lines += ["    on", *(f"      {line}" for line in shown.splitlines())]
        if self.also:
            others = f"broken for the same cause: {'; '.join(self.also)}"
            lines += wrap(others, 116, initial_indent="    ", subsequent_indent="      ")
        return "\n".join(lines)


class BrokenLawsError(AssertionError):
    """Everything that a part breaks, in one message."""

    def __init__(self, part: Any, broken: Sequence[Broken], count: int) -> None:
        self.broken = tuple(broken)
        named = repr(part) if " object at 0x" not in repr(part) else type(part).__name__
        laws = len(broken) + sum(len(one.also) for one in broken)
        causes = "" if laws == len(broken) else f" for {len(broken)} cause{'s' if len(broken) > 1 else ''}"
        lines = [f"{named} breaks {laws} of {count} laws{causes}:", *map(str, broken)]
        super().__init__("\n".join(lines))


def broken(part: Any, law: Law, *, examples: int = 100, domain: Domain = EVERYTHING) -> Broken | None:
    """Return a small counterexample to the law, or None if it holds on all batches that were drawn.

    Args:
        part: What is tested.
        law: What shall hold.
        examples: Batches to draw.
        domain: Which batches; by default all.
    """
    found = _failure(part, law, examples, domain)
    if found is None:
        return None
    batch, seed = found
    batch = smallest(batch, domain.restrict, lambda smaller: _error(part, law, smaller, seed) is not None)
    error = _error(part, law, batch, seed)
    assert error is not None
    return Broken(law, _first_lines(error), batch, part, remedy=_remedy(law, error))


def _remedy(law: Law, error: Exception) -> str:
    """Return what mends the part: what the error says, or else the law if it was the law that raised."""
    if not isinstance(error, AssertionError):
        return "it raises on a valid batch; call it on the one below to see where"
    return getattr(error, "remedy", law.remedy)


@cache
def _drawn(examples: int, domain: Domain = EVERYTHING) -> tuple[tuple[RolloutBatch, int], ...]:
    """Return batches and seeds that every law is tested on: drawing them takes longer than most laws do."""
    if domain != EVERYTHING:
        return tuple((domain.restrict(batch), seed) for batch, seed in _drawn(examples))
    found: list[tuple[RolloutBatch, int]] = []

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(batch=rollouts(), seed=st.integers(0, 2**16))
    def draw(batch: RolloutBatch, seed: int) -> None:
        found.append((batch, seed))

    draw()
    return tuple(found)


def holds(part: Any, law: Law, examples: int, domain: Domain = EVERYTHING) -> bool:
    """Return whether a law holds on all drawn batches."""
    return _failure(part, law, examples, domain) is None


def failure(part: Any, law: Law, examples: int, domain: Domain = EVERYTHING) -> Exception | None:
    """Return what the law raises on the first drawn batch on which it is broken; None if it holds on all."""
    found = _failure(part, law, examples, domain)
    return None if found is None else _error(part, law, *found, again=0)


def _failure(part: Any, law: Law, examples: int, domain: Domain) -> tuple[RolloutBatch, int] | None:
    """Return the first drawn batch on which a law is broken, with its seed."""
    return next((pair for pair in _drawn(examples, domain) if _error(part, law, *pair, again=0)), None)


def _error(part: Any, law: Law, batch: RolloutBatch, seed: int, again: int = 3) -> Exception | None:
    """Return what a law raises on a batch with one of some seeds, the given one first; None if it holds.

    The batch is copied because a part may write into it.
    """
    for one in (seed, *range(again)):
        try:
            law.test(part, copied(batch), Random(one))
        except Exception as error:  # whatever a part raises on a valid batch breaks the law
            return error
    return None


def copied(batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with tensors of its own, without the checks of a new batch."""
    return unchecked(batch, {name: tensor.clone() for name, tensor in batch.tensors().items()})


def _first_lines(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    shown = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("assert ", "+"))]
    kept = (shown or text.splitlines())[:4]
    said = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return said + "\n    ".join(kept)
