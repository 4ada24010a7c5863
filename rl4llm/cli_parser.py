"""`RecipeParser`: a class named for a slot starts from its own defaults, in flags and configuration files alike."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

import docstring_parser
import jsonargparse
import yaml
from jsonargparse import Namespace, _actions, _typehints
from jsonargparse._util import get_import_path as _import_path
from jsonargparse._util import import_object
from jsonargparse.typing import class_from_function
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.cli_choices import LIST, ask_for_lists, choices_text, unknown_name
from rl4llm.cli_errors import one_line
from rl4llm.cli_slot_errors import in_its_slot
from rl4llm.progress import fitted

READ = "4.53."  # the jsonargparse whose internals `rules_of_slots` builds on


def _of_trainer(group: Any) -> bool:
    return any(action.dest.startswith("trainer") for action in group._group_actions)


class RecipeParser(LightningArgumentParser):
    """Parser of command lines and configuration files that applies four rules to slots, at every depth.

    1. Another class in a slot starts from its own defaults: of the class that stood there before, nothing is kept.
       The same class named again changes nothing, and a single setting changes nothing else.
    2. Settings of a command line belong to the class that it names there, whether they stand before it or after it;
       those of a class that a later flag replaces are gone with it.
    3. A text that stands for a value (`--model.policy=Qwen/Qwen3-4B-Base`) takes that value's other settings
       (`--model.policy.dtype=bfloat16`).
    4. What is imported may be named as `module:function` too.

    Errors are one line, with status 2.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})  # `--data.task.s` is not `--data.task.size`

    def parse_args(self, args: Iterable[str] | None = None, *more: Any, **options: Any) -> Any:
        """Parse flags into a configuration."""
        given = ask_for_lists(sys.argv[1:] if args is None else list(args), self._flags_alone())
        with rules_of_slots():
            return super().parse_args(classes_first(given), *more, **options)

    def _flags_alone(self) -> set[str]:
        """Return the flags that may stand without a value, those of the commands included."""
        found = [item for parser in self._parsers() for item in parser._option_string_actions.items()]
        return {flag for flag, action in found if action.nargs in ("?", 0)}

    def _parsers(self) -> list[Any]:
        return [self, *(self._subcommands_action._name_parser_map.values() if self._subcommands_action else ())]

    def parse_object(self, *args: Any, **options: Any) -> Namespace:
        """Parse a mapping into a configuration."""
        with rules_of_slots():
            return super().parse_object(*args, **options)

    def parse_path(self, *args: Any, **options: Any) -> Namespace:
        """Parse a file into a configuration."""
        with rules_of_slots():
            return super().parse_path(*args, **options)

    def format_help(self, *formatter: Any) -> str:
        """Return the help of all flags: those of the recipe first, those of the Trainer last, under a short usage."""
        groups, usage = self._action_groups, self.usage
        own = [group for group in groups if not _of_trainer(group)]
        self._action_groups, self.usage = own + [group for group in groups if _of_trainer(group)], "%(prog)s [flags]"
        try:
            return super().format_help(*formatter)
        finally:
            self._action_groups, self.usage = groups, usage

    def add_lightning_class_args(self, lightning_class: Any, *args: Any, **options: Any) -> list[str]:
        """Add the arguments of a class, or of a recipe, whose class is made once for all commands."""
        given = lightning_class if isinstance(lightning_class, type) else _class_of(lightning_class)
        return super().add_lightning_class_args(given, *args, **options)

    def describe(self, key: str, recipe: Callable[..., Any], slots: Callable[..., Any]) -> None:
        """Take the help of parameters that `recipe` does not describe from the docstring of `slots`.

        Args:
            key: Under which the recipe's arguments stand, such as `model`.
            recipe: The function that was added there.
            slots: The function or class to which the recipe hands its `**options`.
        """
        own, texts = _documented(recipe), _documented(slots)
        for action in self._actions:
            action.help = action.help or texts.get(action.dest.removeprefix(f"{key}."))
        for name, group in (self.groups or {}).items():
            slot = name.removeprefix(f"{key}.")
            if slot in texts and slot not in own:
                group.title = texts[slot].rstrip(".")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line and leave with status 2."""
        if not self.exit_on_error:  # within a slot: the parser around it knows the slot's name
            super().error(message, ex)
        from rl4llm.command.flags import slot_flags

        flags = dict.fromkeys(flag for parser in self._parsers() for flag, _ in slot_flags(parser))
        told = in_its_slot(message)
        line = f"error: {told if told.startswith('--') else one_line(told, list(flags))}"
        print(fitted(line, sys.stderr), file=sys.stderr)
        sys.exit(2)


@cache  # it reads the source of every caller
def _class_of(function: Callable[..., Any]) -> type:
    """Return a class whose `__init__` is the function; jsonargparse puts it into this module, under its name."""
    name = f"{function.__name__}_class"
    globals().pop(name, None)  # that of another function of this name, such as a recipe loaded twice
    return class_from_function(function, name=name)


def _documented(function: Callable[..., Any]) -> dict[str, str]:
    parameters = docstring_parser.parse(inspect.getdoc(function) or "").params
    return {parameter.arg_name: parameter.description or "" for parameter in parameters}


def classes_first(args: Sequence[str]) -> list[str]:
    """Return the flags with every setting moved behind the first class named for its slot.

    Example:
        >>> classes_first(["fit", "--model.gate.fraction=0.3", "--seed=1", "--model.gate=Random"])
        ['fit', '--seed=1', '--model.gate=Random', '--model.gate.fraction=0.3']
    """
    units: list[list[str]] = []
    for arg in args:
        if units and not arg.startswith("-") and len(units[-1]) == 1 and _waits_for_value(units[-1][0]):
            units[-1].append(arg)
        else:
            units.append([arg])
    for place, unit in enumerate(units):
        name, value = _name_and_value(unit)
        if name and _names_one(value):
            start = max((i for i in range(place) if _starts_anew(units[i], name)), default=-1)
            if start >= 0 and _name_and_value(units[start])[0] == name:
                continue  # those settings were given to the class that this one replaces
            since = units[start + 1 : place]
            settings = [given for given in since if _name_and_value(given)[0].startswith(name + ".")]
            units[start + 1 : place + 1] = [*(given for given in since if given not in settings), unit, *settings]
    return [arg for unit in units for arg in unit]


def _waits_for_value(arg: str) -> bool:
    return arg.startswith("--") and "=" not in arg


def _name_and_value(unit: list[str]) -> tuple[str, str]:
    if not unit[0].startswith("--"):
        return "", ""
    name, _, value = unit[0].partition("=")
    return name, unit[1] if len(unit) > 1 else value


def _names_one(value: str) -> bool:
    """Whether this is a class or a name; null, mappings and files say all that the slot holds."""
    try:
        return isinstance(yaml.safe_load(value), str) and not value.endswith((".yaml", ".yml", ".json"))
    except yaml.YAMLError:
        return False


def _starts_anew(unit: list[str], name: str) -> bool:
    """Whether a flag before `name` says what its slot holds: a configuration file, the slot, or one around it."""
    flag = _name_and_value(unit)[0]
    return (
        unit[0].startswith("-c") or flag == "--config" or name == flag or (flag != "" and name.startswith(f"{flag}."))
    )


# --- what jsonargparse has no setting for -----------------------------------------------------------------------------


_ACTION = _typehints.ActionTypeHint
_DISCARD, _CHECK, _IMPORT = "discard_init_args_on_class_path_change", "_check_type", "import_object"
_RESOLVE, _HELP = "resolve_class_path_by_name", "print_help"
_PLACES = {_DISCARD: _typehints, _CHECK: _ACTION, _IMPORT: _typehints, _RESOLVE: _typehints}
_PLACES[_HELP] = _actions._ActionHelpClassPath
_theirs: dict[str, Any] = {name: getattr(place, name, None) for name, place in _PLACES.items()}
_COLON = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@contextmanager
def rules_of_slots() -> Iterator[None]:
    """Apply rules 1, 3 and 4 of `RecipeParser` while the context is open; restore jsonargparse afterwards.

    Raises:
        UsageError: If the installed jsonargparse is not the one whose internals these rules build on.
    """
    if not jsonargparse.__version__.startswith(READ):
        raise UsageError(
            f"jsonargparse {jsonargparse.__version__} is installed, but rl4llm needs {READ}*; "
            f"run pip install 'jsonargparse[signatures]=={READ}*'."
        )
    before = {name: getattr(place, name) for name, place in _PLACES.items()}
    rules = {_DISCARD: _discard, _CHECK: _check, _IMPORT: _import, _RESOLVE: _resolve, _HELP: _print_help}
    for name, rule in rules.items():
        setattr(_PLACES[name], name, rule)
    try:
        yield
    finally:
        for name, place in _PLACES.items():
            setattr(place, name, before[name])


def _discard(parser: Any, previous: Any, value: Any) -> None:
    """Leave nothing of the class that stood in a slot when another takes its place."""
    if previous and previous.get("class_path") and not _same(previous["class_path"], value["class_path"]):
        for part in ("init_args", "dict_kwargs"):
            previous.pop(part, None)
    else:  # one class, or a plain dataclass: its settings stay
        _theirs[_DISCARD](parser, previous, value)


def _check(self: Any, value: Any, append: bool = False, cfg: Any = None, mode: Any = None) -> Any:
    """Read what was given for a slot, where a text may stand for a value's name."""
    if standing := _text_stands_for(self._typehint):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with suppress(yaml.YAMLError):  # a text that is no mapping after all
                value = yaml.safe_load(value)
        if isinstance(value, _typehints.NestedArg | dict | Namespace):
            value = _with_text(*standing, value, self, cfg)
    return _theirs[_CHECK](self, value, append=append, cfg=cfg, mode=mode)


def _import(name: Any, *args: Any, **options: Any) -> Any:
    """Import an object by its path, `module.function` or `module:function`."""
    path = name.replace(":", ".") if isinstance(name, str) and _COLON.fullmatch(name) else name
    return _theirs[_IMPORT](path, *args, **options)


def _resolve(kinds: Any, name: str) -> str:
    """Return the import path of the class that a name stands for in a slot.

    Raises:
        ValueError: There is none; the text says what is near.
    """
    several = kinds if isinstance(kinds, tuple) else (kinds,)
    name = name.replace(":", ".") if _COLON.fullmatch(name) else name
    paths = [_theirs[_RESOLVE](kind, name) for kind in several]
    found = next((path for path in paths if "." in path), None)
    if found is None and name.isidentifier() and Tensor not in several and all(isinstance(x, type) for x in several):
        raise ValueError(f"Choice: {unknown_name(several, name)}")
    return found or name


def _print_help(self: Any, given: Any) -> None:
    """Print the settings of the class behind `--SLOT.help=NAME`, or the choices if no class is named."""
    parser, _, name, _ = given
    if name in (None, LIST) and self.nargs != 0:
        print(choices_text(self._help_types))
        parser.exit()
    _theirs[_HELP](self, given)


def _same(one: str, other: str) -> bool:
    """Whether two import paths lead to one class."""
    try:
        return one == other or import_object(one) is import_object(other)
    except (ImportError, AttributeError, ValueError):
        return False


def _text_stands_for(typehint: Any) -> tuple[Any, str] | None:
    """Of `str | Value`: the dataclass, and its one field without a default, for which the text stands."""
    kinds = get_args(typehint) if get_origin(typehint) in (Union, UnionType) else ()
    values = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if str not in kinds or len(values) != 1:
        return None
    unset = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(values[0]) if f.default is unset and f.default_factory is unset]
    return (values[0], needed[0]) if len(needed) == 1 else None


def _with_text(kind: Any, field: str, value: Any, action: Any, cfg: Any) -> Any:
    """Let the text in the slot be the value's `field`, unless the value brings its own."""
    text = cfg.get(action.dest) if cfg is not None else None
    text = action.default if text is None else text
    if not isinstance(text, str):
        return value
    if isinstance(value, _typehints.NestedArg):
        cfg[action.dest] = Namespace(class_path=_import_path(kind), init_args=Namespace({field: text}))
        return value
    given = value if isinstance(value, dict) else vars(value)
    return value if {field, "class_path"} & set(given) else {field: text, **given}
