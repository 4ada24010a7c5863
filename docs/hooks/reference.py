"""A page of the reference describes every module of its family, so that a new one needs no entry."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl4llm"
FAMILY = re.compile(r"^::: rl4llm\.(\w+)\.\*$", re.MULTILINE)


def on_page_markdown(markdown: str, **page: object) -> str:
    """Replace a family by its modules, the bases first."""
    return FAMILY.sub(
        lambda found: "\n\n".join(f"::: rl4llm.{found[1]}.{name}" for name in modules(found[1])), markdown
    )


def modules(family: str) -> list[str]:
    """The names of the modules of a family."""
    names = [path.stem for path in (PACKAGE / family).glob("*.py") if not path.stem.startswith("_")]
    return sorted(names, key=lambda name: (name != "base", name))
