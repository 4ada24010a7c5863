"""The package has no import circle, and families share arithmetic below them, never with one another."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FAMILIES = (
    "advantages",
    "corrections",
    "critics",
    "gates",
    "metrics",
    "objectives",
    "regularizers",
    "replay",
    "rewards",
    "segments",
)
# What a family may import of a sibling: a base, or a default value, that stands in its own signatures.
BASES_OF_SIBLINGS = {
    ("regularizers", "rl4llm.gates.base"): "the gate that restricts a penalty",
    ("regularizers", "rl4llm.objectives.base"): "how the penalties of tokens become one number",
    ("regularizers", "rl4llm.rewards.shaping"): "divergence from the reference is charged in the reward too",
    ("critics", "rl4llm.segments.base"): "where the continuations of a response begin",
    ("critics", "rl4llm.segments.newline"): "the default of that slot",
}


def module_names(root):
    """Every module below a folder, by its dotted name."""
    paths = {path: path.relative_to(root).with_suffix("").parts for path in sorted(root.rglob("*.py"))}
    return {".".join(p for p in parts if p != "__init__"): path for path, parts in paths.items()}


def statements(body):
    """What runs when a module is imported, and what type checkers read: all statements but those inside functions."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for inner in ("body", "orelse", "handlers", "finalbody"):
                yield from statements(getattr(node, inner, []))


def imports_of(text, modules):
    """The modules of the package that a text imports at its top level."""
    found = set()
    for node in statements(ast.parse(text).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= named & set(modules)
            found |= set() if named <= set(modules) else {node.module}
    return found


MODULES = {name: path for name, path in module_names(ROOT).items() if name.partition(".")[0] == "rl4llm"}
GRAPH = {name: imports_of(path.read_text(encoding="utf-8"), MODULES) for name, path in MODULES.items()}


def circle(graph):
    """A circle of imports, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return None


def family_of(module):
    return module.split(".")[1] if "." in module else ""


def test_no_module_imports_itself_through_others():
    assert circle(GRAPH) is None


def test_no_folder_imports_itself_through_others():
    folders = {}
    for module, imported in GRAPH.items():
        targets = {family_of(other) for other in imported} - {"", family_of(module)}
        folders.setdefault(family_of(module), set()).update(targets)
    assert circle(folders) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_imports_no_sibling_but_for_its_base(family):
    strangers = {
        f"{module} imports {other}"
        for module, imported in GRAPH.items()
        for other in imported
        if family_of(module) == family != family_of(other)
        and family_of(other) in FAMILIES
        and (family, other) not in BASES_OF_SIBLINGS
    }
    assert not strangers, f"{sorted(strangers)}; what families share belongs into a module below them"


@pytest.mark.parametrize(("family", "base"), BASES_OF_SIBLINGS)
def test_exceptions_are_still_needed(family, base):
    assert any(base in imported for module, imported in GRAPH.items() if family_of(module) == family)


def test_imports_are_found_wherever_they_stand_outside_functions():
    modules = ("rl4llm", "rl4llm.a", "rl4llm.a.b", "rl4llm.c", "rl4llm.d", "rl4llm.e", "rl4llm.f")
    text = (
        "from rl4llm.a import b, thing\nfrom rl4llm import c\nimport rl4llm.d\nimport torch\n"
        "if TYPE_CHECKING:\n    from rl4llm.e import X\n"
        "def lazily():\n    from rl4llm.f import Y\n"
    )
    assert imports_of(text, modules) == {"rl4llm.a", "rl4llm.a.b", "rl4llm.c", "rl4llm.d", "rl4llm.e"}


def test_a_circle_is_shown():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
