"""Drawings become part of the page, so that their lines and letters take the colours of its scheme."""

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.svg)\)")
STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)  # colours for a viewer that shows the file alone


def on_page_markdown(markdown: str, page: "Page", **site: object) -> str:
    """Put each drawing where the page shows it."""
    folder = Path(page.file.abs_src_path or "").parent
    return IMAGE.sub(lambda found: inline(folder / found[2], found[1]), markdown)


def inline(path: Path, description: str) -> str:
    """The drawing in one line, with its description for those who listen to the page."""
    drawing = " ".join(STYLE.sub("", path.read_text(encoding="utf-8")).split())
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
