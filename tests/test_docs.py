"""The documentation covers the public names, its links resolve, and files keep the sizes that make them readable."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = sorted((ROOT / "rl4llm").rglob("*.py"))
TOOLS = {"compare", "evaluate", "report"}  # beside the recipes, run like them
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.py") if path.stem not in TOOLS)
PACKAGES = (
    "advantages",
    "bridges",
    "critics",
    "gates",
    "objectives",
    "regularizers",
    "corrections",
    "replay",
    "segments",
    "citations",
    "rewards",
    "rollouts",
    "data",
    "models",
    "algorithms",
    "metrics",
    "evaluation",
    "runs",
)
PUBLIC = [(package, name) for package in PACKAGES for name in importlib.import_module(f"rl4llm.{package}").__all__]


def relative(path):
    """The path as a test id."""
    return str(path.relative_to(ROOT))


def without_code(text):
    """Markdown without fenced blocks and code spans, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def body_lines(function):
    """Lines of a function below its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_public_name_is_documented(package, name):
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    assert any(re.search(rf"(?<!\w){name}(?!\w)", text) for text in texts), f"rl4llm.{package}.{name} is on no page"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_relative_links_resolve(page):
    targets = re.findall(r"\]\(([^)\s]+)", without_code(page.read_text(encoding="utf-8")))
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    broken = [target for target in local if not (page.parent / target).exists()]
    assert not broken, f"{relative(page)} links to {broken}"


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in missing if not re.search(rf"(?<!\S){re.escape(page)}\s*$", config, re.MULTILINE)]
    assert not missing, f"mkdocs.yml does not list {missing}"


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
def test_recipe_is_on_a_page(recipe):
    pages = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert f"recipes/{recipe}.py" in pages, f"recipes/{recipe}.py is on no page"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_file_has_at_most_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_has_at_most_60_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_function_bodies_have_at_most_40_lines(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {function.name: body_lines(function) for function in functions if body_lines(function) > 40}
    assert not long, f"{relative(path)}: {long}"
