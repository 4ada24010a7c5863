"""Names of the library that stand in code style lead to their place in the reference."""

import re
from functools import cache
from importlib import import_module

FAMILIES = (
    "advantages critics gates objectives regularizers corrections replay segments rewards rollouts data models "
    "algorithms metrics evaluation runs batch log_probs linear_log_probs masked"
)
# Fences, indented code, headings, links and images are left alone; what is left is code that begins with a name.
SKIPPED = r"^(?P<fence>```+|~~~+).*?^(?P=fence)\s*?$|^#+ .*?$|^:::.*?$|!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)"
CODE = re.compile(rf"(?P<skipped>{SKIPPED})|(?<!`)`(?P<code>(?P<name>[A-Za-z_]\w*)(?:\([^`\n]*\))?)`(?!`)", re.M | re.S)


@cache
def places() -> dict[str, str]:
    """Where the reference describes each public name; names that mean two things are left out."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES.split():
        module = import_module(f"rl4llm.{family}")
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if getattr(thing, "__module__", "").startswith("rl4llm.") and hasattr(thing, "__qualname__"):
                found.setdefault(name, set()).add(f"{thing.__module__}.{thing.__qualname__}")
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1 and not name.startswith("_")}


def on_page_markdown(markdown: str, **page: object) -> str:
    """Link the names of one page."""
    return CODE.sub(linked, markdown)


def linked(found: re.Match[str]) -> str:
    """The same code, as a link if the reference describes its name."""
    place = None if found["skipped"] else places().get(found["name"])
    return f"[{found[0]}][{place}]" if place else found[0]
