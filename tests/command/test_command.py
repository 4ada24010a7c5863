"""The command `rl4llm`: recipes by name, what to type, and one line for what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from rl4llm.command import main
from rl4llm.command.main import run
from rl4llm.command.recipes import TOOLS, all_recipes, recipes_folder
from rl4llm.command.words import table


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_without_arguments_it_says_how_to_use_it(capsys):
    for arguments in ((), ("--help",), ("help",)):
        status, out, _ = said(capsys, *arguments)
        assert status == 0
        assert "usage: rl4llm RECIPE fit" in out


def test_every_recipe_is_listed_with_idea_and_parts(capsys):
    status, out, _ = said(capsys, "list")
    assert status == 0
    files = {path.stem for path in recipes_folder().glob("*.py")} - set(TOOLS)
    assert files == {line.split()[0] for line in out.splitlines()[2:] if line[:1].strip()}
    asyppo = next(recipe for recipe in all_recipes() if recipe.name == "asyppo")
    assert asyppo.paper == "arXiv:2510.01656"
    assert asyppo.idea.startswith("Asymmetric PPO: mini-critics")
    assert asyppo.parts[:4] == ("MiniCritics", "GAE", "Whiten", "AgreementGate")
    assert all(recipe.idea for recipe in all_recipes())


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_table_fits_the_terminal(width):
    assert max(map(len, table(all_recipes(), width).splitlines())) <= max(width, 80)


def test_a_recipe_alone_says_what_to_type(capsys):
    status, out, _ = said(capsys, "asyppo")
    assert status == 0
    assert "rl4llm asyppo fit --help" in out
    assert "(arXiv:2510.01656)" in out


def test_a_misspelt_recipe_is_one_line_with_the_nearest(capsys):
    status, _, err = said(capsys, "asypo", "fit")
    assert status == 2
    assert (
        err == "error: there is no recipe or command 'asypo'; did you mean asyppo? `rl4llm list` shows what there is.\n"
    )


def test_a_copy_is_the_recipe_and_never_overwrites(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["copy", "rloo"]) == 0
    assert Path("rloo.py").read_text() == (recipes_folder() / "rloo.py").read_text()
    assert "python rloo.py fit" in capsys.readouterr().out
    status, _, err = said(capsys, "copy", "rloo")
    assert status == 2
    assert err == "error: rl4llm copy: rloo.py exists already; name another file.\n"
    assert run(["copy", "rloo", "other.py"]) == 0
    for arguments in (
        ["copy"],
        ["copy", "rloo", "no/such/folder.py"],
        ["copy", "a", "b", "c"],
        ["list", "all"],
        ["cite"],
    ):
        status, _, err = said(capsys, *arguments)
        assert (status, err.count("\n")) == (2, 1), arguments


def test_what_a_recipe_composes_is_cited(capsys):
    status, out, _ = said(capsys, "cite", "rloo")
    assert status == 0
    assert "2402.14740" in out


def test_a_part_is_checked_by_its_place(capsys, tmp_path, monkeypatch):
    status, out, _ = said(capsys, "check", "rl4llm.advantages:LeaveOneOut", "--examples=2")
    assert status == 0
    assert "LeaveOneOut() keeps its" in out
    monkeypatch.chdir(tmp_path)
    Path("mine_for_the_command.py").write_text(
        "from rl4llm.advantages import Advantages, LeaveOneOut\n\n\nclass Flipped(LeaveOneOut):\n"
        "    def __call__(self, batch):\n        return Advantages(-super().__call__(batch).advantages)\n"
    )
    status, out, _ = said(capsys, "check", "mine_for_the_command:Flipped", "--examples=10")
    assert status == 1
    assert "the sign is flipped" in out
    Path("needs_another.py").write_text("import no_such_module\n")
    Path("fails_itself.py").write_text("x = 1 / 0\n")
    for place, message in {
        "nothing": "give module:name",
        "mine.MyGate": "'mine.MyGate' names no part; give module:name, for example mine:MyGate.",
        "mine.py:MyGate": "'mine.py:MyGate' names no part; give module:name, for example mine:MyGate.",
        "no_such_module:Part": "No module named 'no_such_module'; give module:name",
        "needs_another:Part": "importing needs_another needs no_such_module, which is not installed",
        "fails_itself:Part": "importing fails_itself raises ZeroDivisionError",
        "rl4llm.advantages:LeavOneOut": "did you mean LeaveOneOut?",
        "rl4llm.rollouts:HuggingFaceEngine": "name an instance instead of the class",
        "rl4llm.advantages:gae": "gae belongs to no family of parts",
    }.items():
        status, _, err = said(capsys, "check", place)
        assert (status, err.count("\n")) == (2, 1), place
        assert message in err, err


def test_arguments_of_a_check_that_do_not_fit_are_one_line(capsys):
    for arguments in ([], ["mine:Part", "--rows=nonempty"], ["mine:Part", "--examples=few"], ["mine:Part", "--exam=2"]):
        status, _, err = said(capsys, "check", *arguments)
        assert (status, err.count("\n")) == (2, 1), arguments
        assert err.endswith("; for example: rl4llm check mine:MyEstimator --examples=20.\n")


def test_families_are_reached_from_the_top_and_nothing_heavy_is_loaded():
    code = (
        "import sys, rl4llm, rl4llm.command\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
        "assert 'rl4llm.start' not in sys.modules  # the recipe imports it first, which announces what loads\n"
        "assert {'advantages', 'critics', 'gates', 'testing', '__version__'} <= set(dir(rl4llm))\n"
        "assert rl4llm.advantages.gae.__module__ == 'rl4llm.advantages.gae'\n"
        "assert not {'lightning', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_at_the_top_is_an_attribute_error():
    import rl4llm

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        rl4llm.nothing  # noqa: B018
    assert all(getattr(rl4llm, name) is not None for name in rl4llm.__all__)


@pytest.mark.long
def test_a_recipe_runs_by_name_and_finds_parts_beside_the_user(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n\nfrom rl4llm.gates import AgreementGate\n\n\n"
        "@dataclass(frozen=True)\nclass MyGate(AgreementGate):\n    pass\n"
    )
    flags = ["--model.gate=mine.MyGate", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    command = [sys.executable, "-m", "rl4llm", "asyppo", "fit", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "asyppo: 1 steps" in done.stdout
    assert (tmp_path / "runs" / "asyppo" / "version_0" / "summary.json").is_file()
