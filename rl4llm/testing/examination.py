"""`examine`: the laws that a part breaks, grouped by cause, so that each cause is reported once."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rl4llm.batch import RolloutBatch
from rl4llm.testing.domains import EVERYTHING, NARROW, Domain
from rl4llm.testing.laws import FINITE, Law, RoundedError
from rl4llm.testing.runner import Broken, BrokenLawsError, broken, holds
from rl4llm.testing.views import outputs


def examine(part: Any, laws: Sequence[Law], *, examples: int = 100, domain: Domain = EVERYTHING) -> list[Broken]:
    """Return one finding for each cause, in the order of the laws.

    A law that is broken on the plainest batches is a cause of its own. If the part itself fails on them, because it
    raises or returns a number that is not finite, that is one cause, and the other laws are examined on the batches on
    which it does not fail. Differences that may be the rounding of float32 are one cause. Every kind of batch that
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
    fails = FINITE in failing and not holds(part, FINITE, examples, domain.narrow())
    causes: dict[str, list[Law]] = {}
    for law in failing:
        causes.setdefault(_cause(part, law, examples, domain, fails=fails), []).append(law)
    found = [_finding(part, those, cause, examples, domain) for cause, those in causes.items()]
    places = {law.name: place for place, law in enumerate(laws)}
    return sorted(found, key=lambda finding: places[finding.law.name])


def _cause(part: Any, law: Law, examples: int, domain: Domain, *, fails: bool) -> str:
    """Return the kind of batch on which the law is broken, the name of another law that says why, or its own name."""
    if not holds(part, law, examples, domain.narrow()):
        if law.about is not None:
            return law.about
        if holds(part, unrounded(law), examples, domain.narrow()):
            return "rounding"
        return FINITE.name if fails and holds(part, _where_well(law), examples, domain.narrow()) else law.name
    return next((kind for kind, some in domain.kinds().items() if not holds(part, law, examples, some)), law.name)


def _finding(part: Any, laws: Sequence[Law], cause: str, examples: int, domain: Domain) -> Broken:
    """Return the law that says most about the cause, with a small example on the plainest batches that break it."""
    law = next((law for law in laws if law.about == cause), laws[0])
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
