"""What the command line takes, shows and refuses before a run begins."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from rl4llm import cli_parser
from rl4llm.checks import UsageError
from rl4llm.cli_strategy import resolve_strategy
from rl4llm.runs.folder import claim_folder, versions
from rl4llm.strategies import ShardedStrategy
from tests.runs.commands import run


def refused(capsys, root, *more):
    with pytest.raises(SystemExit) as left:
        run(root, *more)
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


# --- strategies -----------------------------------------------------------------------------------------------------


def test_short_names_of_strategies():
    assert resolve_strategy("auto") == "auto"
    assert resolve_strategy("ddp") == "ddp"
    assert isinstance(resolve_strategy("fsdp2"), ShardedStrategy)
    own = DDPStrategy()
    assert resolve_strategy(own) is own


@pytest.mark.parametrize("given", ["fsdp", "fsdp_cpu_offload", "deepspeed", "deepspeed_stage_3", "ddp_spawn", "nope"])
def test_other_strategies_are_refused_with_the_one_to_use(tmp_path, capsys, given):
    line = refused(capsys, tmp_path, f"--trainer.strategy={given}")
    assert line.startswith(f"error: --trainer.strategy: {given} ")
    assert "fsdp2" in line
    assert not (tmp_path / "toy").exists()


def test_an_object_of_a_refused_strategy_is_refused_too():
    with pytest.raises(UsageError, match=r"FSDPStrategy .* use --trainer.strategy=fsdp2"):
        resolve_strategy(FSDPStrategy(accelerator=None))


@pytest.mark.parametrize("given", ["16-mixed", "16", "16-true"])
def test_float16_is_refused_with_the_precision_to_use(tmp_path, capsys, given):
    line = refused(capsys, tmp_path, f"--trainer.precision={given}")
    assert line.startswith(f"error: --trainer.precision: {given} ")
    assert "use bf16-" in line
    assert not (tmp_path / "toy").exists()


def test_the_trainer_leaves_the_prompts_alone(tmp_path):
    assert run(tmp_path, "--trainer.max_steps=1").config.fit.trainer.use_distributed_sampler is False


# --- the run folder -------------------------------------------------------------------------------------------------


def test_every_run_has_a_folder_of_its_own(tmp_path):
    assert [claim_folder(tmp_path, "x").name for _ in range(3)] == ["version_0", "version_1", "version_2"]
    assert versions(tmp_path, "x") == [0, 1, 2]
    assert not list(tmp_path.rglob(".probe*"))


def test_a_root_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, tmp_path / "file")
    assert f"cannot be written to ('{tmp_path / 'file'}' is a file); choose another with" in line


def test_a_folder_that_cannot_be_written_is_one_line(capsys):
    line = refused(capsys, Path("/proc/nothing"))
    assert "'/proc/nothing/toy' cannot be written to (" in line


def test_a_rehearsal_claims_no_folder(tmp_path):
    run(tmp_path, "--trainer.fast_dev_run=true")
    assert not (tmp_path / "toy").exists()


def test_checkpoints_can_be_switched_off(tmp_path):
    run(tmp_path, "--trainer.max_steps=1", "--trainer.enable_checkpointing=false")
    assert not (tmp_path / "toy/version_0/checkpoints").exists()


def test_a_run_leaves_its_summary(tmp_path):
    run(tmp_path, "--trainer.max_steps=4", "--seed_everything=7")
    summary = json.loads((tmp_path / "toy/version_0/summary.json").read_text())
    assert summary["recipe"], summary["status"] == ("toy", "finished")
    assert (summary["seed"], summary["steps"], summary["before"]["step"], summary["after"]["step"]) == (7, 4, 0, 4)
    assert summary["after"]["distance"] > summary["before"]["distance"] == 0.0
    assert set(summary["versions"]) == {"rl4llm", "torch", "lightning", "transformers"}
    assert summary["minutes"] >= 0


def test_the_table_shows_what_was_logged(tmp_path, capsys):
    run(tmp_path, "--trainer.max_steps=4")
    assert re.search(r"^distance +0\.000 +\d\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_shows_them(capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--help")
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Words of the recipe's own." in shown
    assert "--checkpoints.every_n_batches" in shown


def test_a_recipe_becomes_a_class_once_for_all_commands():
    def recipe(lr: float = 0.1) -> LightningModule:
        return LightningModule()

    before = cli_parser._class_of.cache_info().misses
    for _ in ("fit", "validate", "test"):
        assert cli_parser.RecipeParser().add_lightning_class_args(recipe, "model") == ["model.lr"]
    assert cli_parser._class_of.cache_info().misses == before + 1


def test_two_functions_of_one_name_are_two_recipes():
    """A recipe file that is loaded twice defines its function anew."""

    def loaded(rate):
        def recipe(lr: float = rate) -> LightningModule:
            return LightningModule()

        return recipe

    for rate in (0.1, 0.2):
        parser = cli_parser.RecipeParser()
        parser.add_lightning_class_args(loaded(rate), "model")
        assert parser.get_defaults().model.lr == rate


# --- a recipe, as a person runs it ----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_recipe_goes_on_from_its_last_checkpoint(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(root / "recipes/grpo.py"), "fit", "--trainer.enable_progress_bar=false"]
    small = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.task.held_out_size=4"]
    small += ["--data.prompts_per_step=2", "--model.evaluation.samples=2"]
    for more in (small, ["--ckpt_path=last", "--trainer.max_steps=3"]):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "grpo: goes on from runs/grpo/version_0/checkpoints/last.ckpt" in done.stdout
    summary = json.loads((tmp_path / "runs/grpo/version_0/summary.json").read_text())
    assert (summary["steps"], summary["before"]["step"], summary["after"]["step"]) == (3, 0, 3)
    assert not (tmp_path / "runs/grpo/version_1").exists()
