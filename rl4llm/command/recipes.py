"""The recipes that the package ships. They are read as text, so listing them imports nothing."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rl4llm.errors import UsageError

TOOLS = ("evaluate", "report")  # files beside the recipes that train nothing
_PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}")


def recipes_folder() -> Path:
    """Return the folder of the recipes: inside an installed package, beside the package in a checkout.

    Raises:
        UsageError: If there is none.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "asyppo.py").is_file():
            return folder
    raise UsageError(f"no recipes are found in {package} or beside it; install rl4llm again.")


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file says of itself.

    Args:
        path: The file.
        idea: Its first line, without the number of the paper.
        paper: The arXiv number of the paper; empty if it names none.
        parts: Names of the classes in the signature of its function, in its order.
    """

    path: Path
    idea: str
    paper: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name by which the command knows it."""
        return self.path.stem


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe file without running it.

    Args:
        path: The file.

    Example:
        >>> read_recipe(recipes_folder() / "rloo.py").paper
        'arXiv:2402.14740'
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    found = _PAPER.search(first)
    idea = first.replace(f" ({found[0]})", "") if found else first
    return RecipeFile(path, idea, found[0] if found else "", tuple(_parts(tree, path.stem)))


def _parts(tree: ast.Module, name: str) -> Iterator[str]:
    """Yield the classes whose instances are defaults of the recipe's function, optimizers and updates left out."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    for function in functions:
        for default in [*function.args.defaults, *function.args.kw_defaults]:
            if isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id != "Updates":
                yield default.func.id


def all_recipes() -> list[RecipeFile]:
    """Return every recipe in alphabetical order."""
    return [read_recipe(path) for path in sorted(recipes_folder().glob("*.py")) if path.stem not in TOOLS]


def recipe_path(name: str) -> Path:
    """Return the file of a recipe or tool.

    Args:
        name: Its name, or the path of a recipe file.

    Raises:
        UsageError: If there is none, with the nearest name.
    """
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in recipes_folder().glob("*.py")}
    if name not in known:
        near = get_close_matches(name.replace("-", "_").lower(), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"there is no recipe or command '{name}'; {hint}`rl4llm list` shows what there is.")
    return known[name]
