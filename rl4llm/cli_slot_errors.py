"""Parser errors in nested slots, reduced to the innermost flag and class."""

import inspect
import re

from jsonargparse._util import import_object

_KEY = re.compile(r'^(\s*)(?:- )?Parser key "([\w.]+)"')
_CLASS = re.compile(r"""class_path[ =]['"]([\w.]+)['"]""")
_REFUSED = re.compile(r"Option '([\w.\-]+)' is not accepted|[Uu]nrecognized arguments: --([\w.\-]+)")
_MISSING = re.compile(r"following arguments are required: (\w+(?:\.\w+)*)")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but (?:([\w.]+) )?is abstract")
_FAMILY = re.compile(r"Import path (?:\S+ )?does not correspond to a subclass of (\w+)")
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
    keys: list[str] = []
    depth, named = -1, ""
    for line in message.splitlines():
        key = _KEY.match(line)
        if key and len(key[1]) > depth:
            keys, depth, named = [*keys, key[2]], len(key[1]), ""  # a class named before is that of the slot around
        named = found[1] if (found := _CLASS.search(line)) else named
        told = keys and _told(line.strip().lstrip("- "), "--" + ".".join(keys), named)
        if told:
            return told
    return message


def _told(line: str, flag: str, named: str) -> str | None:
    refused, missing = _REFUSED.search(line), _MISSING.search(line)
    abstract, family = _ABSTRACT.search(line), _FAMILY.search(line)
    name = f"{flag}={named.rpartition('.')[2]}" if named else flag
    if refused:
        return f"{name} has no setting '{refused[1] or refused[2]}'{_settings(named)}."
    if missing:
        return f"{name} needs {missing[1]}; add {flag}.{missing[1]}=..."
    if abstract:
        return f"{flag} holds no class that could be built; name one first, such as {flag}=NAME."
    if _IMPORT.match(line):
        what = f"{named} cannot be imported ({line})" if named else line
        return f"{flag}: {what}; give a name that --help lists, or an import path such as package.module.Class."
    if family:
        return f"{flag} takes a {family[1]}, and the class given is none; --help lists those there are."
    return f'Parser key "{flag[2:]}": {line}' if _LEAF.search(line) else None


def _settings(named: str) -> str:
    try:
        known = [name for name in inspect.signature(import_object(named)).parameters if name not in ("self", "params")]
    except (ImportError, AttributeError, ValueError, TypeError):
        return ""
    return "; it has " + (", ".join(known) if known else "none")
