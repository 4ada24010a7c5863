"""The pytest plugin: `pytest --rl4llm mine:MyEstimator` runs the laws of `rl4llm.testing`, one test per law.

A cause is reported once: the law that says most about it fails, and the other laws that it breaks are skipped.

A module beside the package, which imports nothing of it until it is asked: pytest imports installed plugins before it
installs import hooks, and the library's own tests check shapes through one.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("rl4llm", "laws of reinforcement-learning parts")
    group.addoption(
        "--rl4llm",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="Run the laws of rl4llm.testing on a part: a class without required arguments, an instance, or a function "
        "that an adapter wrapped. May be given several times; then nothing else is collected.",
    )
    group.addoption("--rl4llm-examples", type=int, default=100, help="Batches to draw for each law (default: 100).")
    group.addoption(
        "--rl4llm-domain",
        action="append",
        default=[],
        metavar="FIELD=KIND",
        help="Examine the part on fewer batches, for example rows=non-empty, masks=contiguous, scores=scored or "
        "groups=differing; may be given several times.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With the option, the tests of the folder are not collected."""
    if config.getoption("--rl4llm"):
        config.args = []
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """One item for each law of each part that was named."""
    named = config.getoption("--rl4llm")
    if named:
        items[:] = [item for place in named for item in _items(session, place)]


def _items(session: pytest.Session, place: str) -> Iterator["LawItem"]:
    """Yield the items of one part.

    Raises:
        pytest.UsageError: If there is no such part or domain.
    """
    from rl4llm.checks import UsageError
    from rl4llm.command.checking import load_part
    from rl4llm.testing.checks import laws_of
    from rl4llm.testing.domains import Domain

    try:
        part = load_part(place)
        laws = laws_of(part)
    except UsageError as error:
        raise pytest.UsageError(f"--rl4llm: {error}") from None
    stated = session.config.getoption("--rl4llm-domain")
    try:
        domain = Domain(**dict(each.split("=", 1) for each in stated))
    except (UsageError, TypeError, ValueError) as error:
        raise pytest.UsageError(f"--rl4llm-domain {' '.join(stated)}: {error}") from None
    examined = Examined(part, laws, session.config.getoption("--rl4llm-examples"), domain)
    for law in laws:
        yield LawItem.from_parent(session, name=f"{place} {law.name}", examined=examined, law=law)


@dataclass(frozen=True, eq=False)
class Examined:
    """A part and, once it is asked for, what it breaks.

    Args:
        part: What is tested.
        laws: What shall hold.
        examples: Batches to draw for each law.
        domain: Which batches.
    """

    part: Any
    laws: Sequence[Any]
    examples: int
    domain: Any

    @cached_property
    def found(self) -> Sequence[Any]:
        """One finding for each cause."""
        from rl4llm.testing.examination import examine

        return examine(self.part, self.laws, examples=self.examples, domain=self.domain)


class LawItem(pytest.Item):
    """A law and the part that shall keep it.

    Args:
        examined: The part, examined once for all its laws.
        law: What shall hold.
        options: Of every item.
    """

    def __init__(self, *, examined: Examined, law: Any, **options: Any) -> None:
        super().__init__(**options)
        self.examined, self.law = examined, law

    def runtest(self) -> None:
        """Fail if the law is the one that is reported for a cause, and skip if another law is reported for it."""
        for finding in self.examined.found:
            if finding.law is self.law:
                raise AssertionError(str(finding))
            if self.law.name in finding.also:
                pytest.skip(f"broken for the same cause as '{finding.law.name}'")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The message without a traceback through the kit."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the part is defined."""
        module = sys.modules[type(self.examined.part).__module__]
        return Path(getattr(module, "__file__", ".") or "."), None, self.name
