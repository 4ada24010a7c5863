"""The classes that fit a slot: a suggestion for a name that is none of them, and the list behind `--SLOT.help`."""

import inspect
import textwrap
from abc import ABC
from collections.abc import Collection, Sequence
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from jsonargparse._typehints import get_all_subclass_paths
from jsonargparse._util import import_object

LIST = "all"  # stands for no class where a flag needs a value
_WIDTH = 79
_ALIKE = 0.65  # names that are more alike are taken for misspelt


def fitting(kinds: Sequence[type]) -> dict[str, str]:
    """Return the import paths of all loaded classes that fit a slot, by their names.

    Args:
        kinds: The classes whose subclasses the slot takes.
    """
    paths = [path for kind in kinds for path in get_all_subclass_paths(kind)]
    return {path.rpartition(".")[2]: path for path in paths if _found(path) is not None}


def _found(path: str) -> object:
    """Return the class at a path; None for one that was made while the program runs, as Lightning makes optimizers."""
    with suppress(ImportError, AttributeError):
        return import_object(path)
    return None


def unknown_name(kinds: Sequence[type], name: str) -> str:
    """Say that no class that fits a slot has this name, and which ones have a similar name.

    Args:
        kinds: The classes whose subclasses the slot takes.
        name: The name that was given.

    Example:
        >>> from rl4llm import objectives  # a class is known once it is loaded
        >>> from rl4llm.gates import Gate
        >>> unknown_name([Gate], "AgreementGat")
        "there is no Gate named 'AgreementGat'; did you mean AgreementGate?"
        >>> unknown_name([Gate], "PPOClip")
        "'PPOClip' is a PolicyObjective, and a Gate is needed here."
    """
    needed = " or ".join(kind.__name__ for kind in kinds if kind is not Any)
    near = [one for one in near_names(name, list(fitting(kinds))) if _likeness(one, name) > _ALIKE]
    if name in _families() and name not in near:
        return wrong_kind(needed, name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"there is no {needed} named '{name}'{hint}"


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


def wrong_kind(needed: str, path: str) -> str:
    """Say that the class at an import path does not fit, and what would.

    Args:
        needed: Name of the class whose subclasses the slot takes.
        path: Import path of what was given.

    Example:
        >>> from rl4llm import advantages
        >>> wrong_kind("Gate", "rl4llm.advantages.GAE")
        "'GAE' is an AdvantageEstimator, and a Gate is needed here."
    """
    name = path.rpartition(".")[2]
    family = _families().get(name)
    if family is None:
        shown = f"'{path}'" if path.replace(".", "").isidentifier() else path
        return f"{shown} is not {_article(needed)} {needed}."
    return f"'{name}' is {_article(family)} {family}, and {_article(needed)} {needed} is needed here."


def near_names(name: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Return the known names that are most like a name, whatever the case of their letters; none that is far behind.

    Example:
        >>> near_names("gea", ["GAE", "RLOO"])
        ['GAE']
    """
    lower = {one.lower(): one for one in known}
    alike = {match: SequenceMatcher(None, match, name.lower()).ratio() for match in lower}
    best = max(alike.values(), default=0.0)
    return [lower[match] for match in get_close_matches(name.lower(), lower, n=count) if alike[match] > best - 0.1]


def choices_text(kinds: Sequence[type]) -> str:
    """Return the classes that fit a slot, one per line with the first sentence of its documentation.

    Args:
        kinds: The classes whose subclasses the slot takes.
    """
    found = dict(sorted(fitting(kinds).items()))
    column = min(30, 4 + max(map(len, found), default=0))
    names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
    lines = [f"{_article(names).capitalize()} {names} can be:", ""]
    for name, path in found.items():
        about = (inspect.getdoc(_found(path)) or "").partition("\n")[0].partition(" See [")[0]
        head = f"  {name}" if len(name) + 4 <= column else f"  {name}\n{'':{column}}"
        lines.append(f"{head:{column}}{textwrap.shorten(about, _WIDTH - column, placeholder=' ...')}".rstrip())
    return "\n".join([*lines, "", "A class of your own is given as package.module.Class."])


def ask_for_lists(args: Sequence[str], alone: Collection[str]) -> list[str]:
    """Return command-line arguments in which `--SLOT.SLOT.help` has a value where it needs one.

    Args:
        args: The arguments.
        alone: The flags of the parser that may stand without a value.

    Example:
        >>> ask_for_lists(["fit", "--model.entropy.where.help"], [])
        ['fit', '--model.entropy.where.help=all']
    """
    asked = []
    for arg, following in zip(args, [*args[1:], "--"], strict=False):
        bare = arg.startswith("--") and arg.endswith(".help") and arg not in alone and following.startswith("-")
        asked.append(f"{arg}={LIST}" if bare else arg)
    return asked


def _article(noun: str) -> str:
    return "an" if noun[:1] in "AEIO" else "a"


def _families() -> dict[str, str]:
    """Return the family of every class of the library by the class's name: the most basic of its abstract bases."""
    found, bases = dict[str, str](), [ABC]
    while bases:
        kinds = [kind for kind in bases.pop().__subclasses__() if kind.__module__.partition(".")[0] == "rl4llm"]
        bases += kinds
        for kind in kinds:
            abstract = [base for base in kind.__mro__ if inspect.isabstract(base)]
            if abstract and not inspect.isabstract(kind):
                found[kind.__name__] = abstract[-1].__name__
    return found
