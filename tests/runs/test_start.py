"""The start of a command: the first line comes before what loads slowly, and no imported recipe changes a process."""

import ast
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl4llm import start
from rl4llm.progress import RANKS, progress

RECIPES = sorted(Path("recipes").glob("*.py"))
PROBE = "import rl4llm.start, gc, sys\nprint(gc.isenabled(), *sorted({'torch', 'lightning'} & set(sys.modules)))\n"


@pytest.fixture
def collecting():
    """Leaves the garbage collector as it was."""
    gc.enable()
    yield
    gc.enable()
    gc.unfreeze()
    progress.hush()


def python(*words, cwd):
    environment = {name: text for name, text in os.environ.items() if name not in RANKS}
    environment["PYTHONPATH"] = str(Path.cwd())
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)


def test_a_script_says_what_it_loads_before_it_loads_it(tmp_path):
    (tmp_path / "mine.py").write_text(PROBE)
    done = python("mine.py", "fit", cwd=tmp_path)
    assert done.stderr == "mine: loading torch, Lightning and transformers\n"
    assert done.stdout == "False\n"


def test_an_imported_recipe_says_nothing_and_leaves_the_collector_on(tmp_path):
    (tmp_path / "mine.py").write_text(PROBE)
    (tmp_path / "other.py").write_text("import mine")
    done = python("other.py", "fit", cwd=tmp_path)
    assert (done.stderr, done.stdout) == ("", "True\n")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_imports_the_start_before_anything_else(path):
    first = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == "import rl4llm.start"


@pytest.mark.parametrize("rank", RANKS)
def test_only_the_first_process_speaks(rank, collecting, capsys):
    start.begin("recipes/asyppo.py", {rank: "1"})
    assert capsys.readouterr().err == ""
    assert not gc.isenabled()
    start.begin("recipes/asyppo.py", {rank: "0"})
    assert capsys.readouterr().err.startswith("asyppo: ")


def test_the_collector_goes_on_when_all_is_loaded(collecting):
    start.begin("recipes/asyppo.py", {})
    start.loaded()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_where_the_collector_was_never_stopped_nothing_is_frozen(collecting):
    start.loaded()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
