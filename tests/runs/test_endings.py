"""However a run ends, it says so in one line, with a status, and loses nothing that was saved."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rl4llm.runs.ending import Voice, explain
from rl4llm.runs.stopping import RunStopped, Signals
from tests.runs.commands import flags, run

ROOT = Path(__file__).parents[2]
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def start(root, *more):
    """The command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.runs.commands", *flags(root, *more)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path, seconds=100):
    """Until a file is there."""
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


def said(text):
    """What a person reads on standard error, without the lines of torch and of the Trainer's start."""
    noise = ("Seed set to", "INFO:", "[rank", "Initializing distributed", "-----", "distributed_backend", "All dist")
    noise += ("toy: ",)  # what it does next
    of_torch = re.compile(r"\[[IWE]\d{4} |frame #|Exception raised from ")  # what its C++ libraries log
    lines = [line for line in text.splitlines() if line.strip()]
    return [line for line in lines if not (line.startswith(noise) or of_torch.match(line))]


def summary(root):
    return json.loads((root / "toy/version_0/summary.json").read_text())


# --- in one process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_the_batch_and_leaves_with_its_status(tmp_path, capsys, name, status):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, f"--model.fault={name}", "--model.at=5")
    assert left.value.code == status
    last = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    line = f"stopped by {name} after 6 rollout batches; saved {last}; go on with --ckpt_path=last"
    assert capsys.readouterr().err.strip().splitlines()[-1] == line
    assert last.is_file()
    assert summary(tmp_path)["status"] == "stopped"
    assert summary(tmp_path)["steps"] == 6


def test_a_signal_in_the_last_batch_leaves_nothing_undone(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--model.fault=SIGTERM", "--model.at=9")
    assert left.value.code == 143
    assert "after 10 rollout batches; saved" in capsys.readouterr().err
    assert run(tmp_path, "--ckpt_path=last").trainer.global_step == 10


def test_a_signal_before_training_ends_the_run_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "tests.runs.commands.Toy.configure_optimizers", lambda self: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as left:
        run(tmp_path)
    assert left.value.code == 143
    assert "before a rollout batch was complete" in capsys.readouterr().err
    assert not (tmp_path / "toy/version_0/checkpoints/last.ckpt").exists()


def test_a_signal_in_an_evaluation_stops_before_the_next_batch(tmp_path, capsys, monkeypatch):
    def validate(self, batch, index):
        if self.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tests.runs.commands.Toy.validation_step", validate)
    with pytest.raises(SystemExit) as left:
        run(tmp_path)
    assert left.value.code == 143
    assert "stopped by SIGTERM after 4 rollout batches; saved" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(tmp_path, "--ckpt_path=last").trainer.global_step == 10


def test_a_signal_after_training_names_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    def validate(self, batch, index):
        if self.global_step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("tests.runs.commands.Toy.validation_step", validate)
    with pytest.raises(SystemExit) as left:
        run(tmp_path)
    assert left.value.code == 130
    last = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    line = f"stopped by SIGINT after 10 rollout batches; saved {last}; go on with --ckpt_path=last"
    assert capsys.readouterr().err.strip().splitlines()[-1] == line


@pytest.mark.devices
def test_a_second_signal_ends_the_run_at_once(tmp_path):
    process = start(tmp_path, "--model.pause=6", "--checkpoints.every_n_batches=1")
    wait_for(tmp_path / "toy/version_0/checkpoints/last.ckpt")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    _, err = process.communicate(timeout=5)  # not after the pause
    assert process.returncode == 143
    (line,) = said(err)
    assert line.startswith("ended at once by a second signal. The checkpoints saved before are intact;")


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    run(tmp_path, "--trainer.max_steps=1")
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_forked_worker_dies_of_sigterm_as_ever():
    with Signals() as signals:
        signals.patient = True
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.2)
        os.kill(child, signal.SIGINT)  # Ctrl-C reaches the whole group; the worker leaves the answer to its parent
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert not signals.received


def test_a_usage_error_in_training_says_what_is_left(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--model.fault=usage", "--model.at=5", "--checkpoints.every_n_batches=2")
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        "error: Toy: the flask is empty; fill it. The checkpoints saved before are intact; go on with --ckpt_path=last."
    )
    assert summary(tmp_path)["status"] == "failed"
    assert "flask" in summary(tmp_path)["reason"]


def test_a_usage_error_before_any_checkpoint_promises_none(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--model.fault=usage", "--model.at=0")
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: Toy: the flask is empty; fill it."


def test_an_unforeseen_error_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(tmp_path, "--model.fault=bug", "--model.at=1")
    assert summary(tmp_path)["reason"] == "ZeroDivisionError: a bug"


def test_a_run_ended_by_sys_exit_has_not_done_what_was_asked(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--model.fault=exit", "--model.at=3")
    assert left.value.code == 2
    assert "the run was ended by sys.exit(0) after 3 rollout batches." in capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, "--model.fault=disk", "--model.at=3", "--checkpoints.every_n_batches=1")
    assert left.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: 'somewhere/metrics.csv' cannot be written: No space left on device;")
    assert line.endswith("go on with --ckpt_path=last.")


def test_only_errors_that_a_person_can_act_on_are_one_line():
    assert explain(KeyError("x")) is None
    assert explain(FileNotFoundError(2, "No such file", "x")) is None
    assert explain(RuntimeError("shapes do not match")) is None
    assert explain(RunStopped(signal.SIGINT))[1] == 130
    lost = RuntimeError("[gloo/...] Connection closed by peer [127.0.0.1]:1")
    assert "another process" in explain(lost, alone=False)[0]
    assert explain(lost) is None


@pytest.mark.devices
def test_the_rank_with_the_traceback_speaks_first(tmp_path):
    there, here = Voice(), Voice()
    there.place = here.place = tmp_path / "spoken"
    speaking = threading.Timer(0.2, there.claim, ("ZeroDivisionError: a bug", 1))
    speaking.start()
    assert not here.claim("error: rank 1 failed", 2, after=5.0)
    assert here.spoken() == ("ZeroDivisionError: a bug", 1)
    (tmp_path / "spoken").unlink()
    assert here.claim("error: rank 1 failed", 2, after=0.1)  # it cannot: it is dead


def test_one_process_speaks(tmp_path):
    first, second = Voice(), Voice()
    first.place = second.place = tmp_path / "spoken"
    assert second.spoken() is None
    assert first.claim("error: this", 7)
    assert not second.claim("error: that", 1)
    assert second.spoken() == ("error: this", 7)


# --- in several processes -------------------------------------------------------------------------------------------


@pytest.mark.devices
def test_a_killed_run_goes_on_and_leaves_the_metrics_of_one_that_was_not(tmp_path):
    process = start(tmp_path / "cut", "--model.pause=0.3", "--checkpoints.every_n_batches=1")
    wait_for(tmp_path / "cut/toy/version_0/checkpoints/last.ckpt")
    time.sleep(0.5)
    process.kill()
    process.wait()
    run(tmp_path / "whole")
    run(tmp_path / "cut", "--ckpt_path=last", "--model.pause=0.0")
    files = [(tmp_path / name / "toy/version_0/metrics.csv").read_text() for name in ("whole", "cut")]
    assert files[0] == files[1]


@pytest.mark.devices
def test_two_processes_stop_together_on_a_signal_to_the_first(tmp_path):
    process = start(tmp_path, *TWO, "--model.pause=0.2", "--checkpoints.every_n_batches=1")
    wait_for(tmp_path / "toy/version_0/checkpoints/last.ckpt")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143
    assert len(said(err)) == 1, err
    assert said(err)[0].startswith("stopped by SIGTERM after")
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["version_0"]


@pytest.mark.devices
@pytest.mark.parametrize(
    ("fault", "rank", "message"),
    [
        ("usage", 1, "error: Toy: the flask is empty; fill it."),
        ("usage", 0, "error: Toy: the flask is empty; fill it."),
        ("SIGKILL", 1, "error: another process of this run has ended"),
    ],
)
def test_a_rank_that_fails_ends_all_with_one_message(tmp_path, fault, rank, message):
    process = start(tmp_path, *TWO, f"--model.fault={fault}", "--model.at=2", f"--model.rank={rank}")
    _, err = process.communicate(timeout=150)
    assert time.time() - (tmp_path / "toy/version_0/fault").stat().st_mtime < 15
    assert process.returncode not in (0, None)
    assert len(said(err)) == 1, err
    assert said(err)[0].startswith(message)
