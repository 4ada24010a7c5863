"""A look inside a run: the rows that it keeps, and one HTML page that shows them token by token."""

from rl4llm.look.page import write_page

__all__ = ["write_page"]
