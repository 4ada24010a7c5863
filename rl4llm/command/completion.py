"""Tab completion of the command `rl4llm`: recipes and flags, answered without loading what the recipes need.

The package argcomplete talks to the shell. The flags of a recipe are found once, which takes as long as its help, and
kept in the user's cache folder until another version is installed or the recipe file changes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import rl4llm
from rl4llm.command.recipes import TOOLS, recipe_path, recipes_folder
from rl4llm.errors import UsageError

SHELL_ASKS = "_ARGCOMPLETE"  # the environment variable by which argcomplete's shell function asks for completions
_ACTIONS = ("fit", "validate", "test")
Flags = Mapping[str, Mapping[str, Sequence[str]]]  # of each command of a recipe: the values to choose from, by flag


def answer(commands: Sequence[str]) -> None:
    """Print completions for the shell that asks, and end the process.

    Args:
        commands: Commands that are no recipes.

    Raises:
        UsageError: If argcomplete is not installed.
    """
    try:
        import argcomplete
    except ModuleNotFoundError as error:
        raise UsageError("completion needs argcomplete; run pip install 'rl4llm[completion]'.") from error
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = f"{line}|".split()  # a space begins another word
    parser = parser_for(words, commands)
    argcomplete.autocomplete(parser, always_complete_options=False, exit_method=sys.exit)


def parser_for(words: Sequence[str], commands: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the names of all recipes and commands, and with the flags of the recipe that is typed.

    Args:
        words: The words of the command line, `rl4llm` the first, up to the one that is being typed.
        commands: Commands that are no recipes.
    """
    parser = argparse.ArgumentParser("rl4llm", add_help=False, allow_abbrev=False)
    names = parser.add_subparsers()
    known = {path.stem for path in recipes_folder().glob("*.py")}
    typed = words[1] if len(words) > 2 and (words[1] in known or Path(words[1]).is_file()) else None
    for name in sorted({*known, *commands, *([typed] if typed else [])}):
        inner = names.add_parser(name, add_help=False, allow_abbrev=False)
        if name != typed:
            continue
        actions = inner.add_subparsers()
        flags = flags_of(recipe_path(name)) if any(word.startswith("-") for word in words) else {}
        for action in _ACTIONS if name not in TOOLS else ():
            command = actions.add_parser(action, add_help=False, allow_abbrev=False)
            for flag, choices in flags.get(action, {}).items():
                command.add_argument(flag, choices=list(choices) or None)
    return parser


def flags_of(recipe: Path) -> Flags:
    """Return the flags of a recipe's commands, from the cache if they are known.

    Args:
        recipe: The recipe file.
    """
    if recipe.stem in TOOLS:
        return {}
    cache = cache_file(recipe)
    if not cache.is_file():
        command = [sys.executable, "-m", "rl4llm.command.flags", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {}
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(done.stdout, encoding="utf-8")
    return json.loads(cache.read_text(encoding="utf-8"))


def cache_file(recipe: Path) -> Path:
    """Return where the flags of a recipe are kept; another version of library or recipe has another place."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl4llm"
    said = f"{rl4llm.__version__} {recipe.resolve()} {recipe.stat().st_mtime_ns}"
    return root / f"{recipe.stem}-{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}.json"
