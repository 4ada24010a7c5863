"""Parser errors in nested slots, reduced to the innermost flag and class."""

import inspect
import re
import sys

from jsonargparse._util import import_object

from rl4llm.cli_choices import near_names, wrong_kind

_KEY = re.compile(r'^(\s*)(?:- )?(?:.* callable class: )?Parser key "([\w.]+)"')
_CLASS = re.compile(r"""class_path[ =]['"]([\w.]+)['"]""")
_REFUSED = re.compile(r"Option '([\w.\-]+)' is not accepted|[Uu]nrecognized arguments: --([\w.\-]+)")
_MISSING = re.compile(r"following arguments are required: (\w+(?:\.\w+)*)")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but (?:([\w.]+) )?is abstract")
_FAMILY = re.compile(r"(?:Import path (?:(\S+) )?does not correspond to a|Not a valid) subclass of (\w+)")
_GIVEN = re.compile(r"(?:Given|Got) value: (.+)$", re.MULTILINE)
_CHOICE = re.compile(r"Choice: (.*)")  # what `unknown_name` has said
_KIND = re.compile(r"(?:there is no|and an?) (\w+) (?:named|is needed)")
_TEXT = re.compile(r"Expected a dot import path string: (\S+)")
_NUMBER = "Subtypes: [<class 'float'>, <class 'torch.Tensor'>]"  # of the settings of torch's optimizers
_HELP = re.compile(r"--([\w.]+)\.help: ")
_FILE = re.compile(r"Unable to load config (.+)")
_LACKS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_IMPORT = re.compile(r"No module named .*|Unable to import .*|.*has no attribute .*")
_LEAF = re.compile(r"Expected a .*Got value: |Expected a dot import path|^[A-Z]\w+: \S.*\.$")


def in_its_slot(message: str) -> str:
    """Return the message with the full name of the innermost flag, or one line if a class lacks or needs a setting.

    Args:
        message: What the parser said, each slot within a slot on lines of its own.

    Example:
        >>> in_its_slot('Parser key "kl":\\n  Problem:\\n    Parser key "coef":\\n      Expected a float. Got value: x')
        'Parser key "kl.coef": Expected a float. Got value: x'
        >>> in_its_slot('Parser key "model.optimizer":\\n  The following arguments are required: lr')
        '--model.optimizer needs lr; add --model.optimizer.lr=...'
    """
    slots: list[tuple[str, str]] = []  # keys from the outermost to the innermost, and the class that each one holds
    depth = -1
    for line in message.splitlines():
        key = _KEY.match(line)
        if key and len(key[1]) > depth:
            slots, depth = [*slots, (key[2], "")], len(key[1])
        if slots and (found := _CLASS.search(line)):
            slots[-1] = (slots[-1][0], found[1])
        if asked := _HELP.search(line):  # --SLOT.help=NAME
            slots = [*slots, (asked[1], "")]
        told = slots and (_misfit(line, slots, message) or _told(line.strip().lstrip("- "), slots))
        if told:
            return told
    return message


def _misfit(line: str, slots: list[tuple[str, str]], message: str) -> str | None:
    """Say that what was given for a slot is not a class that fits there."""
    flag, listing, named = _flag(slots), _listing(slots), slots[-1][1]
    given = named or next(iter(_GIVEN.findall(message)), "this").replace("None", "null")
    family, text = _FAMILY.search(line), _TEXT.search(line)
    if _CHOICE.search(line):
        return f"{flag}: {_choice(_CHOICE.findall(message))} {listing}"
    if family:
        return f"{flag}: {wrong_kind(family[2], family[1] or given)} {listing}"
    if _ABSTRACT.search(line) and (undefined := _undefined(given)):
        return f"{flag}: {given} does not define {undefined}; define it, or name another class."
    if text and _NUMBER in message:
        return f"{flag}: expected a number, got {text[1]}."
    if text:
        return f"{flag}: '{text[1]}' is not the name of a class. {listing}"
    return None


def _choice(told: list[str]) -> str:
    """Return the most helpful of what the classes that a slot takes say about a name."""
    near = next((one for one in told if "did you mean" in one), None)
    kinds = list(dict.fromkeys(found[1] for one in told if (found := _KIND.search(one))))
    return near or told[0].replace(f" {kinds[0]} ", f" {' or '.join(kinds)} ", 1)


def _told(line: str, slots: list[tuple[str, str]]) -> str | None:
    flag, named = _flag(slots), slots[-1][1]
    refused, missing = _REFUSED.search(line), _MISSING.search(line)
    name = f"{flag}={named.rpartition('.')[2]}" if named else flag
    if refused:
        return f"{name} has no setting '{refused[1] or refused[2]}'{_settings(named)}."
    if missing:
        return f"{name} needs {missing[1]}; add {flag}.{missing[1]}=..."
    if _ABSTRACT.search(line):
        return f"{flag} holds no class whose settings could be changed; name one first. {_listing(slots)}"
    if file := _FILE.match(line):
        return f"{flag}: there is no file {file[1]} with its settings; give {flag}.NAME=VALUE for each of them."
    if _IMPORT.match(line):
        what = f"{named} cannot be imported ({line})" if named else line
        return f"{flag}: {what}{_near_attribute(line)} {_listing(slots)}"
    return f'Parser key "{flag[2:]}": {line}' if _LEAF.search(line) else None


def _undefined(path: str) -> str:
    """Return what a class outside of the library leaves abstract; empty if there is nothing, or no such class."""
    if path.startswith("rl4llm."):  # the family's own class stands for an empty slot
        return ""
    try:
        return ", ".join(sorted(import_object(path).__abstractmethods__))
    except (ImportError, AttributeError, ValueError):
        return ""


def _flag(slots: list[tuple[str, str]]) -> str:
    return "--" + ".".join(key for key, _ in slots)


def _listing(slots: list[tuple[str, str]]) -> str:
    """Say how to list the choices of the innermost slot; the classes around it decide which slots there are."""
    around = [f"{_flag(slots[:end])}={slots[end - 1][1].rpartition('.')[2]}" for end in range(1, len(slots))]
    return f"{' '.join([*around, _flag(slots)])}.help lists the choices."


def _near_attribute(line: str) -> str:
    """Suggest a name of a module that lacks the one that was asked for."""
    lacks = _LACKS.search(line)
    near = near_names(lacks[2], dir(sys.modules[lacks[1]])) if lacks and lacks[1] in sys.modules else []
    return f"; did you mean {' or '.join(near)}?" if near else "."


def _settings(named: str) -> str:
    try:
        known = [name for name in inspect.signature(import_object(named)).parameters if name not in ("self", "params")]
    except (ImportError, AttributeError, ValueError, TypeError):
        return ""
    return "; it has " + (", ".join(known) if known else "none")
