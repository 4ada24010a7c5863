"""`main`: the entry point of the command `rl4llm`. Each subcommand imports what it needs, and nothing before that."""

import os
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rl4llm
from rl4llm.command.checking import check_part
from rl4llm.command.completion import SHELL_ASKS, answer
from rl4llm.command.looking import look_inside
from rl4llm.command.recipes import TOOLS, all_recipes, read_recipe, recipe_path
from rl4llm.command.words import USAGE, next_steps, table
from rl4llm.errors import UsageError
from rl4llm.progress import progress

Command = Callable[[Sequence[str]], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its status.

    Args:
        arguments: The words behind `rl4llm`; those of the process when None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if SHELL_ASKS in os.environ:
            answer(list(COMMANDS))
        status = run(given)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # `rl4llm list | head`
        sys.stderr.close()
        status = 0
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Do what the arguments ask for and return the exit status.

    Raises:
        UsageError: If there is no such command or recipe, or its arguments are wrong.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(version=rl4llm.__version__), end="")
        return 0
    name, *rest = arguments
    if name == "--version":
        print(rl4llm.__version__)
        return 0
    return COMMANDS[name](rest) if name in COMMANDS else run_recipe(name, rest)


def run_recipe(name: str, arguments: Sequence[str]) -> int:
    """Run a recipe or a tool as if Python ran its file; a recipe alone says what to type."""
    path = recipe_path(name)
    if not arguments and path.stem not in TOOLS:
        print(next_steps(read_recipe(path)), end="")
        return 0
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent) if Path(name) == path else "")  # as for a script, or a module
    runpy.run_path(str(path), run_name="__main__")
    return 0


def list_recipes(arguments: Sequence[str]) -> int:
    """Print a table of all recipes."""
    if arguments:
        raise UsageError(f"rl4llm list takes no arguments, got {' '.join(arguments)}.")
    print(table(all_recipes(), shutil.get_terminal_size((100, 24)).columns), end="")
    return 0


def copy_recipe(arguments: Sequence[str]) -> int:
    """Copy a recipe to a file that is not there yet."""
    if len(arguments) not in (1, 2):
        raise UsageError("rl4llm copy takes a recipe and, optionally, a file; for example: rl4llm copy asyppo mine.py.")
    source = recipe_path(arguments[0])
    target = Path(arguments[1] if len(arguments) == 2 else source.name)
    target = target / source.name if target.is_dir() else target
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UsageError(f"rl4llm copy: {target} exists already; name another file.") from None
    except OSError as error:
        raise UsageError(f"rl4llm copy: {target} cannot be written ({error.strerror}); name another file.") from None
    print(f"{target}: edit it, then run: python {target} fit")
    return 0


def cite(arguments: Sequence[str]) -> int:
    """Print the BibTeX of what recipes compose."""
    if not arguments:
        raise UsageError("rl4llm cite takes recipes or recipe files; for example: rl4llm cite asyppo.")
    paths = [str(recipe_path(name)) for name in arguments]
    progress.speak("cite")
    progress.announce("loading torch, Lightning and transformers", quick=True)
    try:
        from rl4llm.citations.__main__ import entries

        text = entries(paths)
    finally:
        progress.hush()
    print(text, end="")
    return 0


COMMANDS: dict[str, Command] = {
    "list": list_recipes,
    "copy": copy_recipe,
    "cite": cite,
    "check": check_part,
    "look": look_inside,
}
