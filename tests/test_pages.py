"""Every Python block of the documentation runs, in the order of its page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ELSEWHERE = {  # a recipe file, examples of signatures, and a page whose every word is compared
    "docs/guide/write-a-recipe.md": "tests/recipes",
    "docs/components/models.md": "tests/algorithms/test_lora.py",
    "docs/guide/from-trl-or-verl.md": "tests/bridges/test_page.py",  # where the other libraries are installed
    "docs/conformance.md": "tests/bridges/test_conformance_page.py",  # the same
    "docs/guide/is-my-estimator-right.md": "tests/testing/test_kit.py",
    "docs/ablation.md": "tests/site/test_new_pages.py",  # reads what runs have left
    "docs/guide/ablate.md": "tests/site/test_new_pages.py",
}
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "```python" in page.read_text(encoding="utf-8")]
PAGES = [page for page in PAGES if str(page.relative_to(ROOT)) not in ELSEWHERE]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch, unchecked_shapes):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_first_block_of_the_readme_runs():
    exec(compile(blocks(ROOT / "README.md")[0], "README.md", "exec"), {"__name__": "page"})
