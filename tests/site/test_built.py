"""The site as it is built: without a warning, without a network, and with equations, links and examples in place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("latex2mathml")
pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of the built site by their address."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {str(path.parent.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("index.html")}


def without_code(html):
    """The page without code and preformatted text."""
    return re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)


def test_every_page_is_there(pages):
    written = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert {"." if str(name) == "index" else str(name) for name in written} <= set(pages)


def test_no_equation_is_left_as_it_was_typed(pages):
    for name, html in pages.items():
        text = re.sub(r"<[^>]*>", "", without_code(re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)))
        assert "arithmatex" not in html, name
        assert not re.search(r"\\(?:frac|sum|log|pi|text)\b|\$[^$\s]", text), name
    assert pages["components/objectives"].count("<math") > 60
    assert sum(html.count("<math") for html in pages.values()) > 150


def test_no_link_between_names_is_left_open(pages):
    for name, html in pages.items():
        assert not re.search(r"\]\[(?:rl4llm[\w.]*)?\]", without_code(html)), name
    assert 'href="../../reference/advantages/#rl4llm.advantages.gae.GAE"' in pages["components/advantages"]


def test_nothing_is_fetched_from_elsewhere(pages):
    for name, html in pages.items():
        fetched = re.findall(
            r'<(?:script|img|iframe)[^>]*src="(https?:[^"]*)"|<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]*)"',
            html,
        )
        assert not fetched, name


def test_examples_of_the_reference_are_code(pages):
    gae = pages["reference/advantages"].partition('id="rl4llm.advantages.gae.gae"')[2]
    assert "<blockquote>" not in pages["reference/advantages"]
    assert re.search(r"<pre[^>]*>.*?gae", gae, re.DOTALL)


def test_drawings_take_the_colours_of_the_page(pages):
    drawings = re.findall(r"<svg [^>]*class=\"drawing\".*?</svg>", "".join(pages.values()), re.DOTALL)
    assert len(drawings) >= 20
    for drawing in drawings:
        assert "currentColor" in drawing
        assert "<style>" not in drawing
        assert re.search(r'aria-label="[^"]{20,}"', drawing)


def test_both_schemes_can_be_chosen(pages):
    assert set(re.findall(r'data-md-color-scheme="(\w+)"', pages["."])) == {"default", "slate"}
