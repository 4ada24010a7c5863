"""`examine`: the laws that a part breaks, grouped by cause, so that each cause is reported once."""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any

from rl4llm.batch import RolloutBatch
from rl4llm.testing.domains import EVERYTHING, NARROW, Domain
from rl4llm.testing.faults import FaultError, RoundedError
from rl4llm.testing.laws import FINITE, STEADY, UNCHANGED, Law
from rl4llm.testing.runner import Broken, BrokenLawsError, broken, copied, failure, holds
from rl4llm.testing.views import outputs


def examine(part: Any, laws: Sequence[Law], *, examples: int = 100, domain: Domain = EVERYTHING) -> list[Broken]:
    """Return one finding for each cause, in the order of the laws.

    A law that is broken on the plainest batches is a cause of its own. If the part itself fails on them, because it
    raises or returns a number that is not finite, that is one cause, and the other laws are examined on the batches on
    which it does not fail. A fault that a law recognises is one cause: a wrong type or shape, rounding to float32,
    results that are not 0 outside of the mask, writing into the batch, and chance. Every kind of batch that
    [Domain][rl4llm.testing.domains.Domain] can leave out is one cause too, if laws are broken on it that hold without
    it. Of the laws that a cause breaks, the one that is about it is reported, or else the first; the others are named
    beside it.

    Args:
        part: What is tested.
        laws: What shall hold.
        examples: Batches to draw for each law.
        domain: Which batches; by default all.

    Returns:
        Nothing if every law holds.
    """
    asked = [law for law in laws if law.about is None or getattr(domain, law.about) == "any"]
    failing = [law for law in asked if not holds(part, law, examples, domain)]
    subject = _spared(part) if UNCHANGED in failing else part
    found: dict[str, tuple[Any, list[Law]]] = {}
    for law in failing:
        where = part if law is UNCHANGED else subject
        spared = where is not part and holds(where, law, examples, domain)
        cause = UNCHANGED.name if spared else _cause(where, law, failing, examples, domain)
        found.setdefault(cause, (part if spared else where, []))[1].append(law)
    findings = [_finding(whose, those, cause, examples, domain) for cause, (whose, those) in found.items()]
    places = {law.name: place for place, law in enumerate(laws)}
    return sorted(findings, key=lambda finding: places[finding.law.name])


def _spared(part: Any) -> Any:
    """Return the part, which then gets a copy of the batch that it may write into."""
    if not callable(part):
        return part
    own: Any = type(part)
    call = own.__call__

    def on_copies(self: Any, *given: Any, **named: Any) -> Any:
        return call(self, *(copied(x) if isinstance(x, RolloutBatch) else x for x in given), **named)

    twin = copy(part)
    object.__setattr__(twin, "__class__", type(own.__name__, (own,), {"__call__": on_copies}))
    return twin


def _cause(part: Any, law: Law, failing: Sequence[Law], examples: int, domain: Domain) -> str:
    """Return why the law is broken: a kind of batch, another law, the remedy of a known fault, or its own name."""
    plain = domain.narrow()
    error = failure(part, law, examples, plain)
    if error is None:
        return next((kind for kind, some in domain.kinds().items() if not holds(part, law, examples, some)), law.name)
    if isinstance(error, RoundedError):
        return error.remedy if holds(part, unrounded(law), examples, plain) else law.name
    if isinstance(error, FaultError):
        return error.remedy
    fails = FINITE in failing and not holds(part, FINITE, examples, plain)
    if fails and holds(part, _where_well(law), examples, plain):
        return FINITE.name
    if law is not UNCHANGED and STEADY in failing and not holds(part, STEADY, examples, plain):
        return STEADY.name
    return law.about or law.name


def _finding(part: Any, laws: Sequence[Law], cause: str, examples: int, domain: Domain) -> Broken:
    """Return the law that says most about the cause, with a small example on the plainest batches that break it."""
    law = next((law for law in laws if cause in (law.about, law.name)), laws[0])
    within = domain.kinds().get(cause, domain.narrow())
    found = broken(part, law, examples=examples, domain=within)
    if found is None:  # it takes several kinds of batches at once
        found = broken(part, law, examples=examples, domain=domain)
    assert found is not None
    others = tuple(other.name for other in laws if other is not law)
    return replace(found, also=others, kind=cause if cause in NARROW else None)


def unrounded(law: Law) -> Law:
    """Return the law, which then accepts differences that may be the rounding of float32.

    Args:
        law: Any law.
    """

    def test(part: Any, batch: RolloutBatch, random: Any) -> None:
        with suppress(RoundedError):
            law.test(part, batch, random)

    return replace(law, test=test)


def _where_well(law: Law) -> Law:
    """Return the law, asked only of batches on which the part does not raise and what it returns is finite."""

    def test(part: Any, batch: RolloutBatch, random: Any) -> None:
        if _well(part, batch):
            law.test(part, batch, random)

    return replace(law, test=test)


def _well(part: Any, batch: RolloutBatch) -> bool:
    try:
        return all(bool(result.isfinite().all()) for result in outputs(part, batch))
    except Exception:
        return False


def require(part: Any, laws: Sequence[Law], *, examples: int = 100, domain: Domain = EVERYTHING) -> None:
    """Raise one readable error with every cause for which the part breaks a law. Arguments as in [examine][].

    Raises:
        BrokenLawsError: If any law is broken.
    """
    found = examine(part, laws, examples=examples, domain=domain)
    if found:
        raise BrokenLawsError(part, found, len(laws))
