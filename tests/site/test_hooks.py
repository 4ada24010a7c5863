"""What the hooks of the site do to a page: names become links, drawings become part of it, docstrings get sections."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"


@pytest.fixture
def hook(monkeypatch, request):
    """A hook as a module; some need what the extra `docs` brings."""
    monkeypatch.syspath_prepend(HOOKS)
    yield pytest.importorskip(request.param)
    sys.modules.pop(request.param)


@pytest.mark.parametrize("hook", ["names"], indirect=True)
def test_every_link_leads_to_something_that_is_defined_there(hook):
    places = hook.places()
    assert len(places) > 400
    assert places["GAE"] == "rl4llm.advantages.gae.GAE"
    assert places["token_log_ratio"] == "rl4llm.ratios.token_log_ratio"  # where it is defined, not where it is exported
    for name, place in places.items():
        module, _, attribute = place.rpartition(".")
        assert attribute == name
        assert getattr(importlib.import_module(module), name).__module__ == module


LINES = [
    ("`GAE`", "[`GAE`][rl4llm.advantages.gae.GAE]"),
    ("a | `GAE(lam=1)` | b", "a | [`GAE(lam=1)`][rl4llm.advantages.gae.GAE] | b"),
    ("`--model.advantage=GAE`", "`--model.advantage=GAE`"),
    ("`GAE().lam`", "`GAE().lam`"),
    ("[`GAE`](advantages.md)", "[`GAE`](advantages.md)"),
    ("[`GAE`][]", "[`GAE`][]"),
    ("# `GAE`", "# `GAE`"),
    ("```python\nuse `GAE`\n```", "```python\nuse `GAE`\n```"),
    ("``GAE``", "``GAE``"),
    ("`NoSuchName`", "`NoSuchName`"),
]


@pytest.mark.parametrize("hook", ["names"], indirect=True)
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_names_in_code_style_become_links(hook, line, expected):
    assert hook.on_page_markdown(line) == expected


@pytest.mark.parametrize("hook", ["names"], indirect=True)
@pytest.mark.parametrize(("address", "links"), [("components/objectives.md", True), ("choose.md", False)])
def test_the_name_of_a_recipe_is_a_function_on_pages_of_components_alone(hook, address, links):
    page = SimpleNamespace(file=SimpleNamespace(src_uri=address))
    assert ("][" in hook.on_page_markdown("`gspo`", page)) is links
    assert "][" in hook.on_page_markdown("`GSPO`", page)


@pytest.mark.parametrize("hook", ["figures"], indirect=True)
def test_a_drawing_stands_in_the_page_without_colours_of_its_own(hook, tmp_path):
    (tmp_path / "a.svg").write_text('<svg class="drawing">\n<style>svg { color: red }</style>\n\n<path/></svg>\n')
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(tmp_path / "page.md")))
    shown = hook.on_page_markdown('before\n\n![Two "lines"](a.svg)\n', page)
    assert shown == 'before\n\n<svg role="img" aria-label="Two &quot;lines&quot;" class="drawing"> <path/></svg>\n'


@pytest.mark.parametrize("hook", ["figures"], indirect=True)
def test_a_drawing_that_is_missing_ends_the_build(hook, tmp_path):
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(tmp_path / "page.md")))
    with pytest.raises(FileNotFoundError, match=r"none\.svg"):
        hook.on_page_markdown("![none](none.svg)", page)


@pytest.mark.parametrize("hook", ["reference"], indirect=True)
def test_a_family_of_the_reference_is_all_of_its_modules(hook):
    lines = hook.on_page_markdown("# Gates\n\n::: rl4llm.gates.*\n").splitlines()
    assert lines[2] == "::: rl4llm.gates.base"
    shown = {line.removeprefix("::: rl4llm.gates.") for line in lines[2:] if line}
    assert shown == {path.stem for path in Path("rl4llm/gates").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("hook", ["equations"], indirect=True)
def test_tex_becomes_mathml(hook):
    shown = hook.on_page_content(r'<p>If <span class="arithmatex">\(r &lt; 1\)</span></p>')
    assert shown.startswith("<p>If <math")
    assert "&lt;" in shown or "&#x0003C;" in shown
    block = hook.on_page_content('<div class="arithmatex">\\[\nA \\log\\pi\n\\]</div>')
    assert block.startswith('<div class="equation"><math')
    assert '<mspace width="0.17em"/><mi>log</mi>' in block


@pytest.mark.parametrize("hook", ["docstrings"], indirect=True)
def test_sections_of_a_docstring(hook):
    text = "One.\n\nExample:\n    >>> 1\n    1\n\nReferences:\n    A, 2017. arXiv:1707.06347, eq. 7.\n    B, 2019.\n"
    assert hook.rewritten(text) == (
        "One.\n\nExamples:\n    >>> 1\n    1\n\nReferences:\n"
        "    - A, 2017. [arXiv:1707.06347](https://arxiv.org/abs/1707.06347), eq. 7.\n    - B, 2019.\n"
    )


@pytest.mark.parametrize("hook", ["words"], indirect=True)
def test_flags_stay_whole_in_running_text_and_code_blocks_are_left_alone(hook):
    html = "<p><code>a --b.c=d e</code></p><pre><code>--b</code></pre><td><code>plain</code></td>"
    word = "<span class=word>--b.c=d</span>"
    assert hook.on_page_content(html) == html.replace("a --b.c=d e", f"a {word} e")
