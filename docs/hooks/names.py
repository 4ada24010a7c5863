"""Names of the library that stand in code style lead to their place in the reference."""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl4llm"
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
        for module, names in _imports(family).items():
            path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
            for name in names & _defined(path):
                found.setdefault(name, set()).add(f"{module}.{name}")
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def on_page_markdown(markdown: str, **page: object) -> str:
    """Link the names of one page."""
    return CODE.sub(linked, markdown)


def linked(found: re.Match[str]) -> str:
    """The same code, as a link if the reference describes its name."""
    place = None if found["skipped"] else places().get(found["name"])
    return f"[{found[0]}][{place}]" if place else found[0]


def _defined(path: Path) -> set[str]:
    """The public functions and classes of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


def _imports(path: Path) -> dict[str, set[str]]:
    """The modules of the library that a file imports from, and the names that it takes from each."""
    imports = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    named = [(str(node.module), {alias.name for alias in node.names}) for node in imports]
    return {module: names for module, names in named if module.startswith("rl4llm.")}
