"""Every Python block of the documentation runs, in the order of its page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {"docs/guide/write-a-recipe.md", "README.md"}  # their first block is a recipe file, run by tests/recipes
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch, unchecked_shapes):
    if str(page.relative_to(ROOT)) in FILES:
        pytest.skip("a file, not a session")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_last_block_of_the_readme_runs():
    exec(compile(blocks(ROOT / "README.md")[-1], "README.md", "exec"), {"__name__": "page"})
