"""The command `rl4llm report`: its study files, what it refuses, and that its commands reproduce its runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from recipes.report import report
from rl4llm.algorithms import PolicyGradient
from rl4llm.evaluation import run_tool
from rl4llm.studies import Arm, Run, flags_of_study, resolve

from ..recipes.helpers import RECIPES, cli

TOY = str(Path(__file__).parents[1] / "runs/commands.py")
STUDY = f"""\
recipe: {TOY}
seeds: [0, 3]
flags: [--trainer.max_steps=4]
metric: val/distance
arms:
  full: []
  fast: [--model.lr=0.1]
  other: {{recipe: asyppo, flags: [--model.gate=null]}}
grid:
  model.lr: [0.2, 0.3]
"""


def told(capsys, *arguments):
    """Status, output and errors of the command."""
    status = 0
    try:
        run_tool(report, flags_of_study(list(arguments)))
    except SystemExit as left:
        status = left.code
    return status, *capsys.readouterr()


def test_a_study_is_one_file_and_flags_take_precedence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    monkeypatch.setattr(sys, "argv", ["report.py", "study.yaml", "--slurm"])
    status, out, err = told(capsys, "study.yaml", "--slurm")
    assert (status, err) == (0, "")
    assert "#SBATCH --array=0-9\n" in out  # five arms, two seeds
    assert "report.py study.yaml --jobs=1 --only=" in out
    assert "#SBATCH --array=0-4%2" in told(capsys, "study.yaml", "--slurm", "--seeds=1", "--jobs=2")[1]
    assert not Path("runs").exists()


def test_runs_that_have_finished_are_compared_without_making_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recipes.report.make_runs", lambda *_: pytest.fail("runs are made"))
    Path("runs/report").mkdir(parents=True)
    status, out, _ = told(capsys, TOY, "--arms={a: [], b: [--model.lr=0.1]}", "--seeds=2", "--run=false")
    assert status == 0
    assert "- b: seeds 0, 1\n" in out
    numbers = pandas.read_parquet("runs/report/metrics.parquet")
    assert (numbers.metric == "run/finished").all()
    assert len(numbers) == 4
    assert not numbers.value.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to run"),
        ([TOY, "--baseline=full"], "--baseline=full is no arm; the arms are"),
        ([TOY, "--arms={a: [], b: [--model.lr=x]}"], "arm 'b': --model.lr: expected a number, got x."),
        ([TOY, "--arms={a: [], b: [--model.lr=0.01]}"], "have the same configuration"),
        ([TOY, "--arms=[1, 2]"], "--arms: expected a mapping, got [1, 2]."),
        ([TOY, "--arms={a: {recipes: ppo}}"], "arm 'a' has 'recipes'"),
        ([TOY, "--arms={a: 3}"], "arm 'a' is 3"),
        ([TOY, "--flags=--trainer.max_steps=3"], "--flags: expected a list, got --trainer.max_steps=3."),
        ([TOY, "--seeds=0"], "give how many"),
        ([TOY, "--sedes=3"], "unknown flag --sedes; did you mean --seeds?"),
        ([TOY, "--only=6"], "numbered from 0 to 5"),
        ([TOY, "--jobs=0"], "jobs"),
        ([TOY, "--reach=x"], "reach"),
        ([TOY, "--run=false"], "there is no folder 'runs/report' with runs"),
        (["no_such.yaml"], "no_such.yaml"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_run(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = told(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("version_*"))


def test_an_unknown_key_of_a_study_is_one_line(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("recipe: ppo\nsedes: 3\n")
    status, _, err = told(capsys, str(tmp_path / "study.yaml"))
    assert (status, err.count("\n")) == (2, 1)
    assert "sedes" in err


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("rl4llm.studies.extra.find_spec", lambda name: None if name == "scipy" else name)
    assert told(capsys, TOY) == (
        2, "", "error: report: scipy cannot be imported; run pip install 'rl4llm[report]'.\n"
    )  # fmt: skip


@pytest.mark.long
def test_a_copied_command_and_an_interrupted_run_give_the_same_numbers(tmp_path, monkeypatch, capsys):
    """The report finds a run that was stopped after its first batch; its command makes the run from the beginning."""
    flags = (
        *("--trainer.max_steps=3", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu"),
        *("--data.task.held_out_size=8", "--data.prompts_per_step=2", "--model.evaluation.samples=2"),
    )
    remember, out = PolicyGradient._remember, tmp_path / "out"
    (resolved,) = resolve([Arm("asyppo", "asyppo", flags)])
    run = Run(resolved, 5, 1, out)

    def stop(module, batch):
        remember(module, batch)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PolicyGradient, "_remember", stop)
    own = ["--seed_everything=5", f"--trainer.default_root_dir={run.place}", "--trainer.enable_progress_bar=false"]
    with pytest.raises(SystemExit):
        cli(RECIPES["asyppo"], "fit", *flags, *own)
    assert (run.finished, run.resumable) == (False, True)
    capsys.readouterr()
    assert told(capsys, "asyppo", f"--flags={list(flags)}", "--seeds=[5]", f"--out={out}", "--jobs=1")[0] == 0
    assert run.folder.name == "version_0"
    assert "goes on from" in (run.place / "output.txt").read_text()
    command = json.loads((out / "report.json").read_text())["arms"]["asyppo"]["command"]
    words = f"{command} --trainer.default_root_dir={tmp_path}/anew"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (
        pandas.read_csv(folder / "metrics.csv").filter(regex="^(?!time/|train/tokens_per_second)").sort_index(axis=1)
        for folder in (run.folder, tmp_path / "anew/asyppo/version_0")
    )
    assert len(first) > 4
    pandas.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.long
def test_every_arm_of_the_asyppo_study_is_one_that_its_recipe_accepts(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", "asyppo_study.yaml", "--slurm"])
    status, out, err = told(capsys, "asyppo_study.yaml", "--slurm")
    assert (status, err) == (0, "")
    assert "#SBATCH --array=0-239\n" in out  # forty arms, six seeds
