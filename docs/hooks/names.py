"""Names of the library that stand in code style lead to their place in the reference."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

PACKAGE = Path(__file__).parents[2] / "rl4llm"
RECIPES = Path(__file__).parents[2] / "recipes"
CORE = ("batch", "log_probs", "linear_log_probs", "masked", "parts")
# Fences, headings, directives, links and images are left alone; what remains is code that begins with a name.
SKIPPED = r"^(?P<fence>```+|~~~+).*?^(?P=fence)\s*?$|^#+ .*?$|^:::.*?$|!?\[(?:[^\[\]]|\[[^\]]*\])*\][(\[][^)\]]*[)\]]"
CODE = re.compile(rf"(?P<skipped>{SKIPPED})|(?<!`)`(?P<name>[A-Za-z_]\w*)(?:\([^`\n]*\))?`(?!`)", re.M | re.S)


@cache
def places() -> dict[str, str]:
    """Where the reference describes each public name; a name with two meanings is left out."""
    found: dict[str, set[str]] = {}
    for module in CORE:
        for name in _defined(PACKAGE / f"{module}.py"):
            found.setdefault(name, set()).add(f"rl4llm.{module}.{name}")
    for family in PACKAGE.glob("*/__init__.py"):
        exported = _words(family)
        for path in [*family.parent.glob("*.py"), PACKAGE / "ratios.py"]:
            for name in exported & _defined(path):
                module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                found.setdefault(name, set()).add(f"{module}.{name}")
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def on_page_markdown(markdown: str, page: "Page | None" = None, **site: object) -> str:
    """Link the names of one page; a name that a recipe has too means the function on pages of components alone."""
    address = "components/" if page is None else page.file.src_uri
    recipes = set() if address.startswith(("components/", "guide/")) else {path.stem for path in RECIPES.glob("*.py")}
    return CODE.sub(lambda found: linked(found, recipes), markdown)


def linked(found: re.Match[str], recipes: set[str]) -> str:
    """The same code, as a link if the reference describes its name."""
    place = None if found["name"] in recipes else places().get(found["name"])
    return f"[{found[0]}][{place}]" if place else found[0]


def _defined(path: Path) -> set[str]:
    """The public functions and classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


def _words(path: Path) -> set[str]:
    """The strings of a file, which `__all__` is made of."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
