"""Argument errors in one line: which flag, what came, what to do."""

import difflib
import re
import sys
import traceback
import warnings
from pathlib import Path

from rl4llm.progress import fitted, progress

PARSER_SAYS = "Does not validate against any of the Union subtypes"
_KEY = re.compile(r'(?:Parser key|Key|key) "([\w.]+)"')
_OURS = re.compile(r"^[A-Z]\w+: \S.*\.$")
_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_IMPORT = re.compile(r"((?:Unable to import|No module named|Import path|module .* has no attribute).*)")
_TYPE = re.compile(r"Expected an? <class '([\w.]+)'>\.? Got value: (.+)")
_LITERAL = re.compile(r"Literal\[(.*?)\]")
_GIVEN = re.compile(r"(?:Got|Given) value: (\S+)")
_UNKNOWN = re.compile(r"(?:[Uu]nrecognized arguments: |[Aa]mbiguous option: |Option '|Key ')(-{0,2}[\w.\-]+)")
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}
_TYPES |= {"collections.abc.Sequence": "a list", "collections.abc.Mapping": "a mapping"}
_format_warning = warnings.formatwarning


def one_line(message: str, options: list[str]) -> str:
    """The one line that a parser's message comes down to.

    Args:
        message: What the parser said, possibly many lines.
        options: The flags there are, for a suggestion where one is misspelt.

    Example:
        >>> one_line('Parser key "trainer.max_steps": Expected a <class \\'int\\'>. Got value: x', [])
        '--trainer.max_steps: expected a whole number, got x.'
        >>> one_line("Unrecognized arguments: --model.gat=null", ["--model.gate"])
        'unknown flag --model.gat; did you mean --model.gate? --help lists all flags.'
    """
    lines = [line.strip().lstrip("- ") for line in message.splitlines() if line.strip()]
    text = " ".join(lines)
    key = _KEY.search(text)
    flag = f"--{key[1]}" if key else ""
    ours = next((line for line in lines if _OURS.match(line)), None)
    if ours:
        return f"{flag}: {ours}" if flag else ours
    unknown = _UNKNOWN.search(text)
    if unknown:
        return _unknown_flag(unknown[1], options)
    return _bad_value(flag, text)


def _unknown_flag(name: str, options: list[str]) -> str:
    asked = "--" + name.lstrip("-")
    near = difflib.get_close_matches(asked, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"unknown flag {asked}{hint} --help lists all flags."


def _bad_value(flag: str, text: str) -> str:
    imported, named, typed, literals = (sought.search(text) for sought in (_IMPORT, _CLASS, _TYPE, _LITERAL))
    if imported or named:
        what = imported[1].split(" - ")[0] if imported else f"'{named[1]}' is not the name of a class"  # type: ignore[index]
        return f"{flag}: {what}; give a class that --help lists there, or an import path such as package.module.Class."
    given = _GIVEN.search(text)
    if literals and given:
        return f"{flag}: {_bad_choice(given[1], _LITERAL.findall(text))}"
    if typed:
        return f"{flag}: expected {_TYPES.get(typed[1], typed[1])}, got {typed[2]}."
    return text if len(text) < 300 else text[:300].rsplit(" ", 1)[0] + " ..."


def _bad_choice(given: str, literals: list[str]) -> str:
    """Say which values a setting takes that takes one of a few."""
    known = list(dict.fromkeys(value.strip(" '") for listed in literals for value in listed.split(",")))
    near = difflib.get_close_matches(given, known, n=1)
    return f"expected one of {', '.join(known)}; got {given}.{f' Did you mean {near[0]}?' if near else ''}"


def import_fault(error: BaseException) -> str | None:
    """Return one line for an error that a user's module raised while it was imported; None for any other error."""
    frames = traceback.extract_tb(error.__traceback__)
    last = max((index for index, frame in enumerate(frames) if "jsonargparse" in frame.filename), default=None)
    if last is None or frames[last].name != "import_object":
        return None
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    what = f"it calls sys.exit({error.code!r})" if isinstance(error, SystemExit) else " ".join(what.split())
    own = [frame for frame in frames[last + 1 :] if "importlib" not in frame.filename]
    place = f"{own[-1].filename}, line {own[-1].lineno}," if own else getattr(error, "filename", None) or "a module"
    return f"{place} fails while it is imported ({what}); fix it, or name another class or function."


def one_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning of this library as one line, and any other warning as usual."""
    ours = Path(filename).is_relative_to(Path(__file__).parent) and category is UserWarning
    progress.wipe()
    text = fitted(f"warning: {message}", sys.stderr)
    return f"{text}\n" if ours else _format_warning(message, category, filename, lineno, line)
