"""Prints the flags of a recipe as JSON: `python -m rl4llm.command.flags recipes/asyppo.py`."""

import json
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jsonargparse import Namespace
from jsonargparse._typehints import ActionTypeHint, get_subclass_types
from jsonargparse._util import import_object
from torch import Tensor

from rl4llm.cli import RecipeCLI
from rl4llm.cli_choices import fitting
from rl4llm.cli_parser import RecipeParser

_DEEPEST = 4  # of slots within slots


class _Parsers(RecipeCLI):
    """Builds the parsers of a recipe's commands, and parses nothing."""

    made: Any

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Keep the parser and leave."""
        _Parsers.made = parser
        raise SystemExit(0)


def flags_of(recipe: Any) -> dict[str, dict[str, list[str]]]:
    """Return the flags of each command, with the names of the classes or values that can be chosen.

    Args:
        recipe: The recipe's function.
    """
    try:
        _Parsers(recipe, args=[])
    except SystemExit:
        commands = _Parsers.made._subcommands_action._name_parser_map
    return {name: dict(slot_flags(parser)) for name, parser in commands.items()}


def slot_flags(parser: Any, prefix: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, list[str]]]:
    """Yield flags and their choices; of a slot also the flags of the class that stands there by default."""
    defaults = parser.get_defaults(skip_validation=True)
    for action in parser._actions:
        for option in (option for option in action.option_strings if option.startswith("--")):
            flag = f"--{prefix}{option[2:]}"
            if not flag.endswith("+"):
                yield flag, _choices(action)
        default = defaults.get(action.dest)
        if depth and isinstance(default, Namespace | dict) and "class_path" in default:
            inner = RecipeParser(exit_on_error=False, add_help=False)
            inner.add_class_arguments(import_object(default["class_path"]), skip={"params"}, fail_untyped=False)
            given = Namespace(default).as_dict().get("init_args") or {}
            inner.set_defaults({name: x for name, x in given.items() if f"--{name}" in inner._option_string_actions})
            yield from slot_flags(inner, f"{prefix}{action.dest}.", depth - 1)


def _choices(action: Any) -> list[str]:
    if action.choices:
        return [str(choice) for choice in action.choices]
    if not isinstance(action, ActionTypeHint):
        return []
    kinds = get_subclass_types(action._typehint, callable_return=True) or ()
    return [*_literals(action._typehint), *(() if Tensor in kinds else sorted(fitting(kinds)))]


def _literals(kind: Any) -> list[str]:
    """Return the values of a type that takes one of a few, such as `Literal["none", "all"] | None`."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for inner in get_args(kind) for value in _literals(inner)]


def load_recipe(path: Path) -> Any:
    """Return the function of a recipe file; the name of the file is its name."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[path.stem] = module = module_from_spec(spec)  # the parser reads the function's source
    spec.loader.exec_module(module)
    return getattr(module, path.stem)


if __name__ == "__main__":
    print(json.dumps(flags_of(load_recipe(Path(sys.argv[1])))))
