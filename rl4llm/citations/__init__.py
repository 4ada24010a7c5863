"""The BibTeX of what was composed: `python -m rl4llm.citations recipes/asyppo.py`."""

from rl4llm.citations.bibtex import citations, paper_ids

__all__ = ["citations", "paper_ids"]
