"""`rl4llm check MODULE:NAME`: the laws on a part, from the command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from rl4llm.errors import UsageError

# The fields of `rl4llm.testing.Domain`, whose import takes seconds.
_NARROW = {
    "rows": "non-empty",
    "masks": "contiguous",
    "scores": "scored",
    "groups": "differing",
    "padding": "finite",
}


def check_part(arguments: Sequence[str]) -> int:
    """Examine a part and print what it breaks; the status is 1 if it breaks a law."""
    options = vars(_parser().parse_args(arguments))
    part = load_part(options.pop("part"))
    try:
        from rl4llm.testing import BrokenLawsError, check, laws_of
    except ModuleNotFoundError as error:
        raise UsageError(f"rl4llm check needs {error.name}; pip install 'rl4llm[test]'.") from error
    try:
        check(part, **options)
    except BrokenLawsError as broken:
        print(broken)
        return 1
    print(f"{part!r} keeps its {len(laws_of(part))} laws on {options['examples']} batches each.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rl4llm check", description="Run the laws of rl4llm.testing on a part.")
    parser.add_argument("part", metavar="MODULE:NAME", help="a class without required arguments, or an instance")
    parser.add_argument("--examples", type=int, default=100, help="batches per law (default: 100)")
    for name, narrow in _NARROW.items():
        parser.add_argument(f"--{name}", choices=("any", narrow), default="any", help=f"{narrow}: made for those only")
    return parser


def load_part(place: str) -> Any:
    """Return the part at `module:name`, an instance if a class is named.

    Args:
        place: Module and name; the working folder is looked in first.

    Raises:
        UsageError: If there is none, its module cannot be imported, or the class needs arguments.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise UsageError(f"{place!r} names no part; give module:name, for example mine:MyEstimator.")
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


def _nearest(name: str, module: str) -> str:
    """Return a suggestion for a name that a module does not have, if there is one."""
    near = get_close_matches(name, dir(sys.modules[module]), n=1) if module in sys.modules else []
    return f"; did you mean {near[0]}?" if near else "."
