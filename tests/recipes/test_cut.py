"""Recipes differ in what they say: whatever two of them would share belongs into the library."""

import ast
from itertools import combinations
from pathlib import Path

import pytest

RECIPES = sorted(Path("recipes").glob("*.py"))
SHARED = 5


def logic(path):
    """The lines of a recipe, those of its docstrings too, without imports, comments and blank lines."""
    text = path.read_text()
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    skipped = {line for node in imports for line in range(node.lineno, node.end_lineno + 1)}
    lines = [line.split("  #")[0].strip() for line in text.splitlines()]
    return [line for number, line in enumerate(lines, start=1) if line and number not in skipped]


def longest_shared_run(first, second):
    """Most consecutive lines that stand in both."""
    best, ends = 0, {}
    for line in first:
        ends = {j: ends.get(j - 1, 0) + 1 for j, other in enumerate(second) if other == line}
        best = max([best, *ends.values()])
    return best


@pytest.mark.parametrize(("first", "second"), combinations(RECIPES, 2), ids=lambda path: path.stem)
def test_no_two_recipes_share_six_lines_of_logic(first, second):
    assert longest_shared_run(logic(first), logic(second)) <= SHARED


def test_the_measure_finds_what_is_shared():
    assert longest_shared_run(list("abcdefg"), list("xcdefy")) == 4
    assert longest_shared_run(logic(RECIPES[0]), logic(RECIPES[0])) == len(logic(RECIPES[0])) > 10
