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
_TYPE = re.compile(r"Expected an? <class '([\w.]+)'>\.? Got value: (.+?)(?:\. Got value: .*)?$")
_LITERAL = re.compile(r"Literal\[(.*?)\]")
_GIVEN = re.compile(r"(?:Got|Given) value: (\S+)")
_UNKNOWN = re.compile(
    r"(?:[Uu]nrecognized arguments: |does not accept option '|[Aa]mbiguous option: |Option '|Key ')(-{0,2}[\w.\-]+)"
)
_STRAY = re.compile(r"[Uu]nrecognized arguments: (-?[^-\s]\S*)")
_ALONE = re.compile(r"argument (?:-\w/)?(--[\w.\-]+): expected (?:one|at least one) argument")
_COMMAND = re.compile(r"argument subcommand: invalid choice: '([^']*)' \(choose from (.*)\)")
_EMPTY = re.compile(r'key "([\w.]+)": Expected a dot import path string: *$')
_NO_FILE = re.compile(r"(?:File does not exist|Path is not a file): (\S+)")
_NOT_YAML = re.compile(r"Problems parsing config: (.*)")
_NO_MAPPING = re.compile(r"Unexpected config: ?(.{0,20})")
_UNNAMED = '"<unicode string>", '  # how the YAML library calls a text that it was given
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
    if stray := _STRAY.search(text):
        return _stray_word(stray[1], options)
    unknown = _UNKNOWN.search(text)
    if unknown:
        return _unknown_flag(unknown[1], options)
    return _incomplete(text) or _bad_file(flag or "--config", text) or _bad_value(flag, text)


def _stray_word(word: str, options: list[str]) -> str:
    flag = f"--{word.lstrip('-')}"
    if flag.partition("=")[0] in options:
        return f"{word} is not a flag; write {flag}."
    return f"'{word}' is not a flag; flags begin with two dashes, such as --trainer.max_steps=100."


def _unknown_flag(name: str, options: list[str]) -> str:
    asked = "--" + name.lstrip("-")
    hint = f"; did you mean {' or '.join(near)}?" if (near := _near_flags(asked, options)) else "."
    return f"unknown flag {asked}{hint} --help lists all flags."


def _near_flags(asked: str, options: list[str]) -> list[str]:
    """Return flags that go on where the one that was typed ends, or end with it, or else the nearest."""
    longer = [name for name in options if name.startswith(f"{asked}_") or name.endswith(f".{asked.lstrip('-')}")]
    longer.sort(key=lambda name: (not name.startswith(asked), name.count("."), len(name)))
    return longer[:2] or difflib.get_close_matches(asked, options, n=1)


def _incomplete(text: str) -> str | None:
    """Return what is missing from the words of a command line; None if it is nothing of the kind."""
    if alone := _ALONE.search(text):
        return f"{alone[1]} has no value; write {alone[1]}=VALUE."
    if empty := _EMPTY.search(text):
        return f"--{empty[1]} has an empty value; write --{empty[1]}=null to leave the slot empty."
    if command := _COMMAND.search(text):
        known = [word.strip("' ") for word in command[2].split(",")]
        near = difflib.get_close_matches(command[1], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"there is no command '{command[1]}'; {hint}The commands are {', '.join(known)}."
    return None


def _bad_file(flag: str, text: str) -> str | None:
    """Return what is wrong with a file of settings; None if it is nothing of the kind."""
    if missing := _NO_FILE.search(text):
        return f"{flag}: there is no file {missing[1]}; give the path of a YAML file."
    if broken := _NOT_YAML.search(text):
        return f"--config: the file is not valid YAML ({broken[1].replace(_UNNAMED, '')}); mend it there."
    if other := _NO_MAPPING.search(text):
        got = f"begins with {other[1]}" if other[1] else "is empty"
        return f"--config: the file {got}; it must hold settings by name, such as model: {{gate: null}}."
    return None


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
