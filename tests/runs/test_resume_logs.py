"""A run that stops and goes on leaves the files of a run that never stopped."""

import csv
import json
import shutil

import pytest
import torch
from tensorboard.summary.writer import event_file_writer

from rl4llm.checks import UsageError
from rl4llm.cli import RecipeCLI
from rl4llm.runs.history import History
from rl4llm.runs.loggers import MetricsFile
from rl4llm.runs.optimizers import hyperparameters, renew_hyperparameters
from rl4llm.runs.resume import find_checkpoint
from tests.runs.commands import Numbers, run, toy


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def events(folder):
    """What TensorBoard shows: by tag, the last value at each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder))
    seen.Reload()
    return {tag: {e.step: e.value for e in seen.Scalars(tag)} for tag in seen.Tags()["scalars"]}


@pytest.mark.long
@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (4, 5, 9)), 8])
@pytest.mark.parametrize("fault", ["SIGTERM", "usage"])
def test_an_interrupted_run_leaves_the_metrics_of_an_uninterrupted_one(tmp_path, at, fault, monkeypatch):
    counter = event_file_writer.AtomicCounter(0)  # files of one second and process are read by name: 10 before 9
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", f"--model.fault={fault}", f"--model.at={at}", "--checkpoints.every_n_batches=3")
    again = run(tmp_path / "cut", "--ckpt_path=last", "--model.fault=null")
    folders = tmp_path / "whole/toy/version_0", tmp_path / "cut/toy/version_0"
    assert not (tmp_path / "cut/toy/version_1").exists()
    assert rows(folders[0]) == rows(folders[1])
    assert len(rows(folders[0])) == 14  # ten batches, evaluations at 0, 4, 8 and at the end
    assert events(folders[0]) == events(folders[1])
    assert whole.history.training == again.history.training
    assert whole.history.validation == again.history.validation
    assert torch.equal(whole.model.weight, again.model.weight)
    before, after = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    assert before["before"] == after["before"] == {"step": 0, "distance": 0.0}
    assert before["after"] == after["after"]


def test_a_run_that_goes_on_takes_the_saved_configuration_and_the_flags_given_now(tmp_path, capsys):
    run(tmp_path, "--model.lr=0.5", "--trainer.max_steps=2")
    capsys.readouterr()
    again = run(tmp_path, "--ckpt_path=last", "--trainer.max_steps=3")
    assert again.model.lr == 0.5
    assert again.trainer.global_step == 3
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "goes on from" in line]
    assert "version_0/checkpoints" in line
    saved = (tmp_path / "toy/version_0/config.yaml").read_text()
    assert "ckpt_path: null" in saved
    assert "max_steps: 3" in saved


def test_a_checkpoint_named_by_its_path_goes_on_in_its_own_folder(tmp_path):
    run(tmp_path, "--trainer.max_steps=2")
    run(tmp_path, "--trainer.max_steps=2")
    checkpoint = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    again = run(tmp_path, f"--ckpt_path={checkpoint}", "--trainer.max_steps=3")
    assert again.run_folder == tmp_path / "toy/version_0"
    assert not (tmp_path / "toy/version_2").exists()


def test_a_checkpoint_elsewhere_starts_a_new_folder(tmp_path):
    run(tmp_path, "--trainer.max_steps=2")
    checkpoint = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    (tmp_path / "copy.ckpt").write_bytes(checkpoint.read_bytes())
    again = run(tmp_path, f"--ckpt_path={tmp_path / 'copy.ckpt'}", "--trainer.max_steps=3")
    assert again.run_folder == tmp_path / "toy/version_1"
    assert again.trainer.global_step == 3


@pytest.mark.parametrize("given", ["{folder}", "{folder}/", "{folder}/checkpoints/last.ckpt", "last"])
def test_validate_takes_the_configuration_of_the_run_that_the_checkpoint_belongs_to(tmp_path, given):
    run(tmp_path, "--trainer.max_steps=2", "--model.lr=0.25", "--model.gate=ajar", "--data.batch_size=8")
    given = given.format(folder=tmp_path / "toy/version_0")
    args = ["validate", f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={given}"]
    validated = RecipeCLI(toy, Numbers, args=args)
    assert validated.model.lr == 0.25
    assert validated.datamodule.batch_size == 8
    assert "gate: ajar" in (tmp_path / "toy/version_1/config.yaml").read_text()
    weight = torch.load(tmp_path / "toy/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]["weight"]
    assert torch.equal(validated.model.weight, weight)
    assert weight.abs().sum() > 0


def test_a_run_goes_on_from_its_folder(tmp_path):
    run(tmp_path, "--trainer.max_steps=2")
    run(tmp_path, "--trainer.max_steps=3")
    again = run(tmp_path, f"--ckpt_path={tmp_path / 'toy/version_0'}", "--trainer.max_steps=4")
    assert again.run_folder == tmp_path / "toy/version_0"
    assert again.trainer.global_step == 4


def test_of_a_run_folder_the_newest_good_checkpoint_counts(tmp_path):
    run(tmp_path, "--trainer.max_steps=2")
    folder = tmp_path / "toy/version_0"
    for ending in ("ckpt", "ckpt.sha256"):
        shutil.copy(folder / f"checkpoints/last.{ending}", folder / f"checkpoints/best.{ending}")
    with (folder / "checkpoints/last.ckpt").open("r+b") as file:
        file.write(b"damaged")
    with pytest.warns(UserWarning, match="passed over: .*last.ckpt"):
        assert find_checkpoint(str(folder), tmp_path, "toy").checkpoint.name == "best.ckpt"
    (folder / "checkpoints/best.ckpt").unlink()
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(UsageError) as refused:
        find_checkpoint(str(folder), tmp_path, "toy")
    assert str(refused.value).startswith(f"run folder '{folder}' holds no good checkpoint; ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("last", "--ckpt_path=last: there is no good checkpoint of toy under"),
        ("no/such.ckpt", "'no/such.ckpt' does not exist"),
        ("", "--ckpt_path is empty"),
        ("{root}/ppo/version_4", "version_4' holds no good checkpoint"),
        ("{root}/ppo/version_3/checkpoints", "is a folder, not a file"),
        ("{root}/ppo/version_3/checkpoints/x.ckpt", "is a checkpoint of ppo, but this is toy"),
    ],
)
def test_a_checkpoint_that_cannot_be_meant_is_one_line(tmp_path, capsys, given, message):
    other = tmp_path / "ppo/version_3/checkpoints"
    other.mkdir(parents=True)
    (other / "x.ckpt").write_bytes(b"x")
    (tmp_path / "ppo/version_4").mkdir()
    with pytest.raises(SystemExit) as left:
        run(tmp_path, f"--ckpt_path={given.format(root=tmp_path)}")
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "toy").exists()


def test_weights_that_do_not_fit_are_named(tmp_path, capsys):
    run(tmp_path, "--trainer.max_steps=1")
    checkpoint = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {"critics.0.head": torch.ones(3), "weight": torch.ones(5)}
    torch.save(content, tmp_path / "other.ckpt")
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(tmp_path, f"--ckpt_path={tmp_path / 'other.ckpt'}")
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: checkpoint")
    assert "other.ckpt' belongs to another model" in line
    assert "critics.0.head" in line


def test_a_flag_that_does_not_fit_the_checkpoint_leaves_the_run_as_it_was(tmp_path, capsys, monkeypatch):
    def refuse(self, checkpoint):
        raise UsageError("checkpoint: another gate.")

    run(tmp_path, "--trainer.max_steps=1")
    config = tmp_path / "toy/version_0/config.yaml"
    saved = config.read_text()
    monkeypatch.setattr("tests.runs.commands.Toy.on_load_checkpoint", refuse)
    with pytest.raises(SystemExit):
        run(tmp_path, "--ckpt_path=last", "--model.gate=shut", "--trainer.max_steps=2")
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: checkpoint: another gate."
    assert config.read_text() == saved
    monkeypatch.undo()
    run(tmp_path, "--ckpt_path=last", "--model.gate=ajar", "--trainer.max_steps=2")
    assert "gate: ajar" in config.read_text()


def test_a_learning_rate_given_now_takes_effect(tmp_path):
    run(tmp_path, "--trainer.max_steps=2", "--model.lr=0.01")
    (optimizer,) = run(tmp_path, "--ckpt_path=last", "--trainer.max_steps=3", "--model.lr=0.002").trainer.optimizers
    assert optimizer.param_groups[0]["lr"] == 0.002
    (optimizer,) = run(tmp_path, "--ckpt_path=last", "--trainer.max_steps=4").trainer.optimizers
    assert optimizer.param_groups[0]["lr"] == 0.002


def test_another_class_of_optimizer_is_one_line(tmp_path, capsys, monkeypatch):
    run(tmp_path, "--trainer.max_steps=2")
    saved = (tmp_path / "toy/version_0/config.yaml").read_text()
    monkeypatch.setattr(
        "tests.runs.commands.Toy.configure_optimizers", lambda self: torch.optim.Adam(self.parameters(), lr=self.lr)
    )
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--ckpt_path=last", "--trainer.max_steps=3", "--model.lr=0.5")
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the checkpoint holds the state of an optimizer other than Adam;")
    assert (tmp_path / "toy/version_0/config.yaml").read_text() == saved


def test_a_schedule_goes_on_from_the_new_rate():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    renew_hyperparameters([optimizer], [schedule], hyperparameters([torch.optim.SGD([weight], lr=0.1)]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 3)


def test_a_checkpoint_outside_a_run_folder_belongs_to_none(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"x")
    assert find_checkpoint(str(tmp_path / "x.ckpt"), tmp_path, "toy").folder is None
    with pytest.raises(UsageError, match="does not exist"):
        find_checkpoint(str(tmp_path / "y.ckpt"), tmp_path, "toy")


# --- the file of metrics --------------------------------------------------------------------------------------------


def test_a_line_cut_by_a_kill_is_no_row(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b,step\n1,2,0\n3,4,1\n5,")
    file = MetricsFile(str(tmp_path), keep=True)
    assert file.rows == 2
    assert file.cut(1) == [{"a": 1.0, "b": 2.0, "step": 0.0}]
    file.log_metrics({"a": 7.0, "c": 8.0}, 1)
    file.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,b,c,step", "1,2,,0", "7.0,,8.0,1"]


def test_a_new_run_starts_its_file_anew(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,step\n1,0\n")
    MetricsFile(str(tmp_path), keep=False)
    assert not (tmp_path / "metrics.csv").exists()


def test_the_history_is_plain_values(tmp_path):
    history = History()
    history.training, history.validation = [(1, {"train/x": 0.5})], [(0, {"val/y": float("nan")})]
    torch.save(history.state_dict(), tmp_path / "state.pt")
    copy = History()
    copy.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert copy.training == history.training
    assert str(copy.validation) == str(history.validation)
