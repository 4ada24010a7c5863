"""The page of papers, `docs/papers.md`, from the tables of this package."""

from collections.abc import Iterable

from rl4llm.citations.methods import KINDS, METHODS, PLANS
from rl4llm.citations.papers import PAPERS

_HEAD = """# Papers

<!-- Written by `python -m rl4llm.citations --papers > docs/papers.md`. Edit the tables in rl4llm/citations instead. -->

What comes from where. Each component holds its source in `paper`, and `python -m rl4llm.citations recipes/asyppo.py`
prints the BibTeX of the paper that a recipe names and of what it composes (`rl4llm.citations.citations` does so for any
module or part, and `paper_ids` gives the bare numbers). Titles and authors are checked against a table that says where
each was seen, `tests/core/paper_sources.tsv`.
"""
_READ = """## What was read, and what differs

Few papers could be read in full. This is what each method was taken from, and where ours departs from it.
"""
_PLANS = """## Critics of 2026

These are cited for comparison. No recipe implements them as a whole.
"""


def papers_page() -> str:
    """Return the page as Markdown.

    Example:
        >>> papers_page().splitlines()[0]
        '# Papers'
    """
    methods = [(_links(m.numbers), m.name, m.parts, m.recipe) for m in METHODS]
    readings = [(m.name, ", ".join(m.read), m.differs) for m in METHODS]
    kinds = "\n".join(f"- **{kind}**: {meaning}" for kind, meaning in KINDS.items())
    plans = [(_links([p.number]), p.name, PAPERS[p.number][1], ", ".join(p.read)) for p in PLANS]
    sections = [
        _HEAD,
        _table(("arXiv", "paper", "component", "recipe"), methods),
        _READ,
        kinds + "\n",
        _table(("method", "read", "what ours does differently, and why"), readings),
        _PLANS,
        _table(("arXiv", "method", "title", "read"), plans),
    ]
    return "\n".join(sections)


def _links(numbers: Iterable[str]) -> str:
    return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers) or "–"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"
