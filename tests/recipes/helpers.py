"""The recipes by name, their command lines, and their parsers, each built once."""

import ast
import contextlib
import importlib
import io
from functools import cache
from pathlib import Path

import pytest
import yaml

from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData

TOOLS = {"report", "evaluate"}
NAMES = sorted(path.stem for path in Path("recipes").glob("*.py") if path.stem not in TOOLS)
RECIPES = {name: getattr(importlib.import_module(f"recipes.{name}"), name) for name in NAMES}
REINFORCEMENT = [name for name in NAMES if name != "sft"]
SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false",
    "--data.task.held_out_size=4", "--data.prompts_per_step=2", "--model.evaluation.samples=2",
]  # fmt: skip


def cli(recipe, *args):
    """The command of a recipe, run in this process."""
    return RecipeCLI(recipe, PromptData, args=list(args), max_steps=200, val_check_interval=25)


def run_main(name):
    """What `python recipes/<name>.py` runs."""
    *_, main = ast.parse(Path(f"recipes/{name}.py").read_text()).body
    exec(compile(ast.Module(main.body, []), name, "exec"), vars(importlib.import_module(f"recipes.{name}")))


class Built(BaseException):
    """Ends a command when its parser is there."""


class OnlyParser(RecipeCLI):
    def parse_arguments(self, parser, args):
        raise Built(parser)


@cache
def parser_of(name, command="fit"):
    """The parser behind `python recipes/<name>.py`, with the flags of one command."""
    with pytest.raises(Built) as built:
        OnlyParser(RECIPES[name], PromptData, args=[command])
    return built.value.args[0]


def config(name, *args):
    """What `python recipes/<name>.py fit --print_config` prints with these flags."""
    shown = io.StringIO()
    with pytest.raises(SystemExit) as left, contextlib.redirect_stdout(shown):
        parser_of(name).parse_args(["fit", "--print_config", *args])
    assert left.value.code == 0
    return yaml.safe_load(shown.getvalue())


def at(tree, place):
    """The entry of a configuration at `critics.init_args.size`."""
    for key in place.split("."):
        tree = tree[key]
    return tree
