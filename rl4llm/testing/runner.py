"""Runs laws on a part and says all that are broken, with the smallest counterexample of each."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from random import Random
from textwrap import wrap
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from rl4llm.batch import RolloutBatch
from rl4llm.testing.domains import EVERYTHING, NARROW, SAID, Domain
from rl4llm.testing.laws import Law
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.views import describe


@dataclass(frozen=True)
class Broken:
    """A law that a part breaks.

    Args:
        law: Which.
        reason: What was seen.
        example: The smallest batch found on which it is broken; None if none could be drawn.
        part: What breaks it.
        also: Names of the other laws that are broken for the same cause.
        kind: The kind of batch on which alone they are broken, as a field of
            [Domain][rl4llm.testing.domains.Domain]; None: they are broken on plain batches.
    """

    law: Law
    reason: str
    example: RolloutBatch | None
    part: Any = None
    also: tuple[str, ...] = ()
    kind: str | None = None

    def __str__(self) -> str:
        lines = [f"  ✗ {self.law.name}", f"    {self.reason}", f"    remedy: {self.law.remedy}"]
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


def broken(
    part: Any,
    law: Law,
    *,
    examples: int = 100,
    strategy: SearchStrategy[RolloutBatch] | None = None,
) -> Broken | None:
    """Return the law's smallest counterexample, or None if it holds on all batches that were drawn.

    Args:
        part: What is tested.
        law: What shall hold.
        examples: Batches to draw.
        strategy: Where they come from; [rollouts][rl4llm.testing.strategies.rollouts] by default.
    """
    if strategy is None and holds(part, law, examples):
        return None
    search, drawn = _Search(), rollouts() if strategy is None else strategy
    try:  # again, for a small counterexample
        _examine(lambda batch, seed: search.look(part, law, batch, seed), examples, drawn)
    except (Exception, _EnoughError):  # whatever a part raises on a valid batch breaks the law
        if search.reason is None:
            raise
    return None if search.reason is None else Broken(law, search.reason, search.example, part)


def _examine(look: Callable[[RolloutBatch, int], None], examples: int, strategy: SearchStrategy[RolloutBatch]) -> None:
    """Show batches and seeds to a function, and simplify the first one on which it raises."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(batch=strategy, seed=st.integers(0, 2**16))
    def trial(batch: RolloutBatch, seed: int) -> None:
        look(batch, seed)

    trial()


@cache
def _drawn(examples: int, domain: Domain = EVERYTHING) -> tuple[tuple[RolloutBatch, int], ...]:
    """Return what `_examine` shows to every law that holds: drawing it takes longer than most laws do."""
    found: list[tuple[RolloutBatch, int]] = []
    _examine(lambda batch, seed: found.append((batch, seed)), examples, domain.strategy())
    return tuple(found)


def holds(part: Any, law: Law, examples: int, domain: Domain = EVERYTHING) -> bool:
    """Return whether a law holds on all drawn batches, each copied because a part may write into it."""
    try:
        for batch, seed in _drawn(examples, domain):
            law.test(part, _copied(batch), Random(seed))
    except Exception:
        return False
    return True


def _copied(batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with tensors of its own, without the checks of a new batch."""
    twin = copy(batch)
    for name, tensor in batch.tensors().items():
        object.__setattr__(twin, name, tensor.clone())
    return twin


class _EnoughError(BaseException):
    """Ends the search for a smaller counterexample; no Exception, so that Hypothesis does not take it for a failure."""


class _Search:
    """The smallest counterexample so far, and how long to look for a smaller one."""

    patience = 60

    def __init__(self) -> None:
        self.reason: str | None = None
        self.example: RolloutBatch | None = None
        self.looked = 0

    def look(self, part: Any, law: Law, batch: RolloutBatch, seed: int) -> None:
        """Test the law on a batch; keep it if it is a counterexample and no larger than the one that is known."""
        self.looked += self.reason is not None
        if self.looked > self.patience:
            raise _EnoughError
        try:
            law.test(part, batch, Random(seed))
        except Exception as error:
            if self.example is None or batch.response_mask.numel() <= self.example.response_mask.numel():
                self.reason, self.example = _first_lines(error), batch
            raise


def _first_lines(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    shown = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("assert ", "+"))]
    kept = (shown or text.splitlines())[:4]
    said = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return said + "\n    ".join(kept)
