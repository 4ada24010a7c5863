"""`rl4llm check MODULE:NAME`: the laws on a part, from the command line."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rl4llm.command.arguments import CommandParser
from rl4llm.errors import UsageError
from rl4llm.progress import progress

# The fields of `rl4llm.testing.Domain`, whose import takes seconds, and what each leaves out.
KINDS = {
    "rows": ("non-empty", "responses without tokens"),
    "masks": ("contiguous", "masks with holes or padding on the left"),
    "scores": ("scored", "responses that could not be scored"),
    "groups": ("differing", "responses without siblings, or equal scores"),
    "padding": ("finite", "NaN or infinity at masked positions"),
}


def check_part(arguments: Sequence[str]) -> int:
    """Examine a part and print what it breaks; the status is 1 if it breaks a law."""
    options = vars(_parser().parse_args(arguments))
    if find_spec("hypothesis") is None:
        raise UsageError("rl4llm check needs hypothesis; pip install 'rl4llm[test]'.")
    progress.speak("check")
    try:
        status, report = _examined(options.pop("part"), options)
    finally:
        progress.hush()
    print(report)
    return status


def _examined(place: str, options: dict[str, Any]) -> tuple[int, str]:
    """Examine the part at a place; return the exit status and what is to be printed."""
    progress.announce(f"loading torch and {place}", quick=True)
    with _no_collection():
        part = load_part(place)
        from rl4llm.testing import BrokenLawsError, check, laws_of
    laws = len(laws_of(part))
    progress.announce(f"examining {laws} laws on {options['examples']} batches each", quick=True)
    try:
        check(part, **options)
    except BrokenLawsError as broken:
        return 1, str(broken)
    return 0, f"{part!r} keeps its {laws} laws on {options['examples']} batches each."


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stop the garbage collector while torch and Hypothesis are imported, and spare it what they create."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    what = "Run the laws of rl4llm.testing on a part of your own."
    more = "A part is examined on every valid batch, unless the last five options leave out what it is not made for."
    parser = CommandParser("check", "mine:MyEstimator --examples=20", description=what, epilog=more)
    parser.add_argument("part", metavar="MODULE:NAME", help="a class without required arguments, or an instance")
    parser.add_argument("--examples", type=int, metavar="N", default=100, help="batches per law (default: 100)")
    for name, (narrow, left_out) in KINDS.items():
        parser.add_argument(f"--{name}", choices=("any", narrow), default="any", help=f"{narrow}: no {left_out}")
    return parser


def load_part(place: str) -> Any:
    """Return the part at `module:name`, an instance if a class is named.

    Args:
        place: Module and name; the working folder is looked in first.

    Raises:
        UsageError: If there is none, its module cannot be imported, or the class needs arguments.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name) or module.endswith(".py"):
        raise UsageError(f"{place!r} names no part; give module:name, for example {_example(place)}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            raise UsageError(f"{place}: {error}; give module:name, for example mine:MyEstimator.") from error
        raise UsageError(f"{place}: importing {module} needs {missing}, which is not installed.") from error
    except AttributeError as error:
        raise UsageError(f"{place}: {error}{_nearest(name, module)}") from error
    except Exception as error:
        raise UsageError(f"{place}: importing {module} raises {type(error).__name__}: {error}.") from error
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise UsageError(f"{place}: {error}; name an instance instead of the class.") from error


def _example(place: str) -> str:
    """Return how a place such as `mine.MyGate` or `mine.py:MyGate` is written, or an example if it is like neither.

    Example:
        >>> _example("mine.MyGate"), _example("mine.py:MyGate"), _example("MyGate")
        ('mine:MyGate', 'mine:MyGate', 'mine:MyEstimator')
    """
    module, _, name = place.replace(".py:", ":").replace(":", ".").rpartition(".")
    return f"{module}:{name}" if module and name else "mine:MyEstimator"


def _nearest(name: str, module: str) -> str:
    """Return a suggestion for a name that a module does not have, if there is one."""
    near = get_close_matches(name, dir(sys.modules[module]), n=1) if module in sys.modules else []
    return f"; did you mean {near[0]}?" if near else "."
