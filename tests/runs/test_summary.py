"""The summary of a run: its first evaluation and its latest, training numbers, and settings beside final metrics."""

import json
import math

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rl4llm.cli import RecipeCLI
from rl4llm.runs.history import History
from rl4llm.runs.settings import log_settings, settings_of
from rl4llm.runs.summary import Summary, measured_table
from tests.runs.commands import Numbers, run, toy

NAN = math.nan


@pytest.fixture
def summary():
    """Returns a summary of what was logged."""

    def make(validation=(), training=()):
        history = History()
        history.validation = list(validation)
        history.training = [(step + 1, {f"train/{n}": x for n, x in one.items()}) for step, one in enumerate(training)]
        return Summary(history, "toy")

    return make


def written(summary, tmp_path):
    summary.write(tmp_path, 4, status="finished")
    return json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_the_reward_comes_first_and_a_dash_stands_for_what_was_not_measured(summary, tmp_path):
    before = {"val/sampled_accuracy": 0.25, "val/reward": 0.5, "val/greedy_accuracy": 0.125}
    after = {"val/sampled_accuracy": 0.75, "val/reward": 1.5, "val/maj_at_4": 0.5, "val/thinks": NAN}
    one = summary([(0, before), (4, after)])
    table = one._table(4, tmp_path).splitlines()
    assert table[3:8] == [
        "held out                    before     after",
        "reward                       0.500     1.500",
        "sampled accuracy             0.250     0.750",
        "maj at 4                         -     0.500",
        "greedy accuracy              0.125         -",
    ]
    found = written(one, tmp_path)
    assert found["before"] == {"step": 0, "sampled_accuracy": 0.25, "reward": 0.5, "greedy_accuracy": 0.125}
    assert found["after"] == {"step": 4, "sampled_accuracy": 0.75, "reward": 1.5, "maj_at_4": 0.5}


def test_before_is_the_first_evaluation_of_the_run_whenever_it_was(summary, tmp_path):
    found = written(summary([(3, {"val/reward": 1.0}), (6, {"val/reward": 2.0}), (9, {"val/reward": 3.0})]), tmp_path)
    assert (found["before"], found["after"]) == ({"step": 3, "reward": 1.0}, {"step": 9, "reward": 3.0})


def test_training_numbers_are_means_over_as_many_batches_at_both_ends(summary, tmp_path):
    rows = [{"reward": float(step), "accuracy": NAN if step else 0.5} for step in range(40)]
    one = summary(training=rows)
    assert written(one, tmp_path)["training"] == {
        "batches": 10,
        "first": {"reward": 4.5, "accuracy": 0.5},
        "last": {"reward": 34.5},
    }
    table = one._table(40, tmp_path).splitlines()
    assert table[3:6] == [
        "training                  first 10 batches  last 10 batches",
        "reward                               4.500           34.500",
        "accuracy                             0.500                -",
    ]


@pytest.mark.parametrize(("steps", "batches"), [(1, 1), (3, 1), (4, 2), (20, 10), (21, 10)])
def test_a_short_run_is_compared_without_overlap(summary, tmp_path, steps, batches):
    assert written(summary(training=[{"reward": 1.0}] * steps), tmp_path)["training"]["batches"] == batches


def test_validate_shows_what_was_measured(capsys, tmp_path):
    run(tmp_path, "--trainer.max_steps=4")
    checkpoint = tmp_path / "toy/version_0"
    capsys.readouterr()
    more = [
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]
    RecipeCLI(toy, Numbers, args=["validate", f"--ckpt_path={checkpoint}", *more])
    shown = capsys.readouterr().out
    assert shown.startswith("\nheld out                       now\ndistance                     0.")
    RecipeCLI(toy, Numbers, args=["validate", f"--ckpt_path={checkpoint}", "--verbose=false", *more])
    assert not capsys.readouterr().out
    assert measured_table({"test/reward": NAN, "val/reward": 1.0}, "test") == ""


def test_a_run_that_logged_nothing_has_an_empty_summary(summary, tmp_path):
    found = written(summary(), tmp_path)
    assert (found["before"], found["training"]["last"]) == ({"step": 0}, {})
    assert "training" not in summary()._table(0, tmp_path).splitlines()[2:]


def test_a_run_without_validation_shows_training_numbers(tmp_path, capsys):
    run(tmp_path, "--trainer.max_steps=4", "--trainer.limit_val_batches=0")
    shown = capsys.readouterr().out
    assert "training                  first 2 batches  last 2 batches\nloss " in shown
    assert "nan" not in shown
    last = json.loads((tmp_path / "toy/version_0/summary.json").read_text())["training"]["last"]
    assert 0 < last["loss"] < 27


# --- settings beside the final metrics --------------------------------------------------------------------------------


def hparams(folder):
    """Return the settings that TensorBoard finds in a run folder, and its scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder)).Reload()
    start = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = HParamsPluginData.FromString(start).session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    return values, {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}


def test_tensorboard_shows_the_settings_of_a_run_with_its_final_metrics(tmp_path):
    run(tmp_path, "--trainer.max_steps=4", "--model.lr=0.02", "--seed_everything=3")
    settings, scalars = hparams(tmp_path / "toy/version_0")
    assert (settings["model.lr"], settings["model.gate"], settings["seed_everything"]) == (0.02, "open", 3)
    assert (settings["trainer.max_steps"], settings["model.fault"]) == (4, "null")
    assert "trainer.default_root_dir" not in settings
    after = json.loads((tmp_path / "toy/version_0/summary.json").read_text())["after"]
    assert scalars["final/val/distance"] == pytest.approx(after["distance"])
    assert "final/train/loss" in scalars


def test_settings_are_plain_values_by_flag():
    where = {"class_path": "rl4llm.gates.DivergenceFilter", "init_args": {"fraction": 0.2, "exact": False}}
    config = {
        "model": {"entropy": {"class_path": "a.EntropyBonus", "init_args": {"where": where}}, "k": [1, 2]},
        "data": {"task": {"class_path": "a.Task", "init_args": {"reward": json.dumps}}},
        "trainer": {"max_steps": 3, "callbacks": None},
        "wandb": None,
    }
    assert settings_of(config) == {
        "model.entropy": "EntropyBonus",
        "model.entropy.where": "DivergenceFilter",
        "model.entropy.where.fraction": 0.2,
        "model.entropy.where.exact": False,
        "model.k": "[1, 2]",
        "data.task": "Task",
        "data.task.reward": "json.dumps",
        "trainer.max_steps": 3,
    }


def test_other_loggers_are_left_alone(tmp_path):
    log_settings([CSVLogger(tmp_path)], {"a": 1}, {"b": 2.0}, 3)
    log_settings([TensorBoardLogger(tmp_path, name="one", version=0)], {"a": 1}, {"b": 2.0}, 3)
    assert hparams(tmp_path / "one/version_0") == ({"a": 1}, {"final/b": 2.0})
