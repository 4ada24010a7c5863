"""The pytest plugin: `pytest --rl4llm mine:MyEstimator` runs the laws of `rl4llm.testing`, one test a law.

A module beside the package, which imports nothing of it until it is asked: pytest imports installed plugins before it
installs import hooks, and the library's own tests check shapes through one.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
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
        items[:] = [item for place in named for item in _items(session, place, config.getoption("--rl4llm-examples"))]


def _items(session: pytest.Session, place: str, examples: int) -> Iterator["LawItem"]:
    from rl4llm.testing.checks import laws_of

    part = load(place)
    for law in laws_of(part):
        yield LawItem.from_parent(session, name=f"{place} {law.name}", part=part, law=law, examples=examples)


def load(place: str) -> Any:
    """The part at `module:name`, an instance if a class is named.

    Raises:
        pytest.UsageError: If there is none, or the class needs arguments.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
        return found() if isinstance(found, type) else found
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"--rl4llm {place}: {error}; give module:name, for example mine:MyEstimator.") from None
    except TypeError as error:
        raise pytest.UsageError(f"--rl4llm {place}: {error}; name an instance instead of the class.") from None


class LawItem(pytest.Item):
    """A law and the part that shall keep it.

    Args:
        part: What is tested.
        law: What shall hold.
        examples: Batches to draw.
        options: Of every item.
    """

    def __init__(self, *, part: Any, law: Any, examples: int, **options: Any) -> None:
        super().__init__(**options)
        self.part, self.law, self.examples = part, law, examples

    def runtest(self) -> None:
        """Draw batches until the law is broken."""
        from rl4llm.testing.runner import BrokenLawsError, broken

        failure = broken(self.part, self.law, examples=self.examples)
        if failure is not None:
            raise BrokenLawsError(self.part, [failure], 1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The message without a traceback through the kit."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the part is defined."""
        return Path(getattr(sys.modules[type(self.part).__module__], "__file__", ".") or "."), None, self.name
