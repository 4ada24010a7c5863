"""The drawing of the loop is the loop: every step on the page is a function of that name, called in that order."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import rl4llm.algorithms as algorithms
from rl4llm.algorithms import PolicyGradient

PAGE = Path("docs/loop.md").read_text()
STEPS = ["collect", "gather", "judge", "deal", "improve", "learn"]


def test_the_drawing_shows_the_steps_in_their_order():
    drawing = PAGE.split("```")[1]
    assert [word for word in re.findall(r"\w+", drawing) if word in STEPS] == STEPS


def test_every_step_of_the_table_is_a_function_in_a_file_of_its_name():
    named = re.findall(r"^\| (\w+) \| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE)
    assert [step for step, _, _ in named] == [function for _, function, _ in named] == STEPS
    for step, _, arguments in named:
        function = inspect.unwrap(getattr(algorithms, step))
        assert Path(inspect.getfile(function)).name == f"{step}.py"
        taken = inspect.signature(function).parameters
        assert [argument.split("=")[0] for argument in arguments.split(", ")] == [
            name for name in taken if name in arguments
        ], step


def test_the_training_step_calls_them_in_that_order():
    source = ast.parse(textwrap.dedent(inspect.getsource(PolicyGradient.training_step)))
    called = [node for node in ast.walk(source) if isinstance(node, ast.Name | ast.Attribute)]
    places = {}
    for node in called:
        name = (node.id if isinstance(node, ast.Name) else node.attr).removeprefix("_")
        if name in STEPS:
            places.setdefault(name, (node.lineno, node.col_offset))
    assert set(places) == set(STEPS)
    assert places["collect"][0] == places["gather"][0], "ranks gather while they collect, so that a failure is shared"
    lines = [places[step][0] for step in STEPS]
    assert lines == sorted(lines)
