"""`python -m rl4llm.citations RECIPE.py ...`: prints the BibTeX of what recipe files compose by default.

With `--papers` it prints the page of papers instead.
"""

import runpy
import sys
from collections.abc import Iterator
from inspect import isfunction
from pathlib import Path
from typing import Any

from rl4llm.citations.bibtex import citations
from rl4llm.citations.page import papers_page

_MODULE = "recipe"


def recipes_of(path: str) -> Iterator[Any]:
    """The public functions that a file defines."""
    named = runpy.run_path(path, run_name=_MODULE)
    yield from (f for name, f in named.items() if isfunction(f) and f.__module__ == _MODULE and name[0] != "_")


def entries(paths: list[str]) -> str:
    """The BibTeX entries of what recipe files compose."""
    return citations(recipe for path in paths for recipe in recipes_of(path))


def main(paths: list[str]) -> None:
    """Print the entries, or the page of papers, or leave with one line."""
    if paths == ["--papers"]:
        print(papers_page(), end="")
        return
    missing = [path for path in paths if not Path(path).is_file()]
    if missing or not paths:
        named = missing[0] if missing else "no argument"
        print(f"error: {named} is no recipe file; name one or more.", file=sys.stderr)
        sys.exit(2)
    print(entries(paths), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
