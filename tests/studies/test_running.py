"""Runs in processes: once each, side by side, and what failed beside what went well."""

import fcntl
import importlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time

import pandas
import pytest

from rl4llm.checks import UsageError
from rl4llm.progress import progress
from rl4llm.studies import Measure, Pool, Study, jobs_at_once, make_runs, records, write_report
from rl4llm.studies.folders import command_of
from rl4llm.studies.running import words_of

from .helpers import fake_runs

METRIC = "val/accuracy"


def study_of(runs, **options):
    arms = tuple(dict.fromkeys(run.resolved.arm for run in runs))
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    return Study(arms, seeds, measures=(Measure(METRIC), Measure(METRIC, "reach", 0.55)), out=runs[0].out, **options)


def said(run):
    return (run.folder / "said").read_text().splitlines()


def test_every_arm_runs_once_with_every_seed(tmp_path, capsys):
    runs = fake_runs(tmp_path, {"a": ["--gain=0.1"], "b": []}, seeds=(0, 7), threads=3)
    assert make_runs(study_of(runs), runs, 2) == 0
    place = f"--trainer.default_root_dir={runs[0].place}"
    assert said(runs[0]) == [f"fit --gain=0.1 --seed_everything=0 {place} --trainer.enable_progress_bar=false 3 None"]
    assert [len(said(run)) for run in runs] == [1, 1, 1, 1]
    assert len({run.place for run in runs}) == 4
    capsys.readouterr()
    assert make_runs(study_of(runs), runs, 2) == 0  # nothing is made again
    assert [len(said(run)) for run in runs] == [1, 1, 1, 1]
    assert "4 runs in" in (err := capsys.readouterr().err)
    assert "4 of them finished" in err


def test_while_runs_are_made_it_says_how_many_are_done(tmp_path, monkeypatch, capsys):
    runs = fake_runs(tmp_path, {"a": [], "b": []})
    counts = []
    monkeypatch.setattr(progress, "every_second", lambda beat: None)
    monkeypatch.setattr(progress, "wipe", lambda: counts.append((progress.done, progress.total)))
    progress.speak("report", {})
    try:
        make_runs(study_of(runs), runs, 1)
    finally:
        progress.hush()
    assert "report: training\n" in capsys.readouterr().err
    assert (1, 2) in counts
    assert (2, 2) in counts


def test_a_run_that_fails_is_shown_and_the_others_go_on(tmp_path, capsys):
    runs = fake_runs(tmp_path, {"a": [], "wrong": ["--fault=no such part"], "c": ["--gain=0.1"]}, seeds=(0, 1))
    study = study_of(runs)
    assert make_runs(study, runs, 2) == 1
    assert "wrong, seed 1: failed: no such part\n" in capsys.readouterr().err
    text = write_report(study, runs, "Mine")
    assert "| wrong (2 failed) | – | – |" in text
    assert "- wrong, seed 0: no such part\n- wrong, seed 1: no such part\n" in text
    assert "| c | 2 | 0.650 [0.600, 0.700] | 0.650 [0.600, 0.700] | +0.100 [+0.100, +0.100] | 2 above, 0 below" in text
    assert text == (study.out / "report.md").read_text()
    found = json.loads((study.out / "report.json").read_text())
    assert found["arms"]["wrong"]["failures"] == {"0": "no such part", "1": "no such part"}
    assert found["arms"]["wrong"]["measures"] == {}
    assert found["arms"]["c"]["measures"]["val/accuracy at the end"]["difference"]["verdict"] == "too few seeds"
    assert found["arms"]["a"]["minutes"] == 2.0
    assert found["arms"]["a"]["peak_memory_mib"] == 101.0
    assert (study.out / "curves.png").stat().st_size > 1000


def test_a_run_that_fails_late_is_in_the_data_and_not_in_the_comparison(tmp_path):
    runs = fake_runs(tmp_path, {"a": [], "b": ["--late=out of memory"]})
    study = study_of(runs)
    make_runs(study, runs, 1)
    text = write_report(study, runs, "x")
    assert "| a | 1 | 0.500 |" in text
    assert "| b | " not in text
    assert "- b, seed 0: out of memory" in text
    table = pandas.read_parquet(study.out / "metrics.parquet")
    assert table[(table.arm == "b") & (table.metric == METRIC)].value.tolist() == [0.5, 0.5]


def test_a_failed_run_is_tried_again_and_forgotten_once_it_finishes(tmp_path):
    (run,) = fake_runs(tmp_path, {"a": []})
    run.resolved.script.write_text("import sys; sys.exit('error: the disk is full')")
    assert [(done.state, done.reason) for done in Pool(1).outcomes([run])] == [("failed", "the disk is full")]
    assert run.failure == "the disk is full"
    (run,) = fake_runs(tmp_path, {"a": []})
    assert [done.state for done in Pool(1).outcomes([run, run])] == ["finished", "finished"]
    assert run.failure == ""
    assert len(said(run)) == 1  # as when another process has finished it in the meantime


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL; memory may have run out."),
        ("import sys; sys.exit(3)", "it ended with status 3 and said nothing."),
        ("", "it ended with status 0 and said nothing."),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_every_ending_is_one_line(tmp_path, code, reason):
    (run,) = fake_runs(tmp_path, {"a": []})
    run.resolved.script.write_text(code)
    assert [(done.state, done.reason) for done in Pool(1).outcomes([run])] == [("failed", reason)]


def test_a_run_that_another_process_makes_is_left_alone(tmp_path):
    (run,) = fake_runs(tmp_path, {"a": []})
    run.place.mkdir(parents=True)
    with open(run.place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [done.state for done in Pool(1).outcomes([run])] == ["running"]
        assert run.folder is None
    assert [done.state for done in Pool(1).outcomes([run])] == ["finished"]


def test_gpus_are_handed_out_one_per_run(tmp_path):
    runs = fake_runs(tmp_path, {"a": [], "b": [], "c": []})
    list(Pool(2, ["4", "6"]).outcomes(runs))
    assert {said(run)[0].split()[-1] for run in runs} <= {"4", "6"}


def test_as_many_runs_go_side_by_side_as_there_are_cores_or_gpus(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert jobs_at_once(None, 1, one_device=True) == cores
    assert jobs_at_once(None, 2 * cores, one_device=True) == 1
    assert jobs_at_once(5, 1, one_device=True) == 5
    assert jobs_at_once(None, 1, one_device=False) == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert jobs_at_once(None, 1, one_device=True) == 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert jobs_at_once(None, 1, one_device=True) == 2
    with pytest.raises(UsageError, match="jobs"):
        jobs_at_once(0, 1, one_device=True)


def test_all_numbers_are_kept_in_long_format_with_the_configuration(tmp_path):
    runs = fake_runs(tmp_path, {"a": ["--gain=0.25"], "b": ["--fault=x"]}, seeds=(0, 1))
    study = study_of(runs)
    make_runs(study, runs, 1)
    write_report(study, runs, "x")
    table = pandas.read_parquet(study.out / "metrics.parquet")
    assert list(table.columns) == ["arm", "recipe", "seed", "step", "metric", "value", "command", "config"]
    own = table[(table.arm == "a") & (table.seed == 1)]
    assert sorted(own[["metric", "step", "value"]].itertuples(index=False, name=None)) == [
        ("run/finished", 2, 1.0),
        ("run/minutes", 2, 2.5),
        ("run/peak_memory_mib", 2, 101.0),
        ("train/loss", 1, 1.0),
        ("train/loss", 2, 3.0),
        ("val/accuracy", 0, 0.5),
        ("val/accuracy", 2, 0.85),
    ]
    assert set(own.config) == {"seed_everything: 1\n"}
    assert set(own.command) == {command_of(runs[2])}
    failed = table[(table.arm == "b") & (table.metric == "run/finished")]
    assert failed.value.tolist() == [0.0, 0.0]
    assert table.equals(records(runs).astype(table.dtypes.to_dict()))


def test_a_run_is_found_again_by_what_it_computes(tmp_path):
    (run,) = fake_runs(tmp_path, {"a": []})
    (threads,) = fake_runs(tmp_path, {"a": []}, threads=2)
    (seed,) = fake_runs(tmp_path, {"a": []}, seeds=(1,))
    (other,) = fake_runs(tmp_path, {"b": []})
    assert len({one.place for one in (run, threads, seed, other)}) == 4
    assert fake_runs(tmp_path, {"a": []})[0].place == run.place


def test_the_command_is_what_one_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run,) = fake_runs(tmp_path, {"a": ["--gain=0.5", "--x={a: 1}"]}, seeds=(4,))
    command = command_of(run)
    assert command.startswith("OMP_NUM_THREADS=1 python ")
    assert shlex.split(command)[3:] == ["fit", "--gain=0.5", "--x={a: 1}", "--seed_everything=4"]
    assert shlex.split(command)[3:] == words_of(run)[2:6]
    told = subprocess.run(["bash", "-c", f"{command} --trainer.default_root_dir=here"], check=False)
    assert told.returncode == 0
    assert (tmp_path / "here/fake/version_0/summary.json").is_file()


def test_one_run_of_an_array(tmp_path):
    runs = fake_runs(tmp_path, {"a": [], "b": ["--fault=x"]}, seeds=(0, 1))
    study = study_of(runs)
    for number, run in enumerate(runs):
        one = study.only(number)
        assert (one.arms, one.seeds) == ((run.resolved.arm,), (run.seed,))
    assert make_runs(study.only(2), [runs[2]], 1) == 0
    assert make_runs(study.only(3), [runs[3]], 1) == 1
    assert [run.folder is not None for run in runs] == [False, False, True, True]
    for number in (-1, 4):
        with pytest.raises(UsageError, match="numbered from 0 to 3"):
            study.only(number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "c"}, "--baseline=c is no arm; the arms are a, b"),
        ({"seeds": ()}, r"--seeds=\[\]; give how many"),
        ({"seeds": (1, 1)}, "different whole numbers"),
        ({"seeds": (-1,)}, "at least 0"),
        ({"threads": 0}, "threads"),
        ({"arms": ()}, "no arms or no measures"),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, options, message):
    arms = tuple(run.resolved.arm for run in fake_runs(tmp_path, {"a": [], "b": []}))
    with pytest.raises(UsageError, match=message):
        Study(**{"arms": arms, "seeds": (0,), **options})


def test_few_seeds_are_warned_of(tmp_path, capsys):
    for seeds, warning in (((0,), "one seed gives no intervals"), ((0, 1), "2 seeds give no verdicts")):
        runs = fake_runs(tmp_path, {"a": [], "b": ["--gain=1"]}, seeds=seeds)
        make_runs(study_of(runs), runs, 1)
        assert f"warning: {warning}" in capsys.readouterr().err


def test_runs_of_other_source_code_are_kept_and_warned_of(tmp_path, monkeypatch, capsys):
    """The code of a run is the library, the recipe file, and the modules of the user's that its configuration names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_part_of_a_study.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_part_of_a_study")

    def warnings():
        (run,) = fake_runs(tmp_path, {"own_part_of_a_study.X": []})
        make_runs(study_of([run]), [run], 1)
        assert len(said(run)) == 1
        return capsys.readouterr().err.count("the source code has changed since 1 of these runs")

    assert [warnings(), warnings()] == [0, 0]
    (tmp_path / "own_part_of_a_study.py").write_text("x = 2\n")
    assert warnings() == 1
    (tmp_path / "own_part_of_a_study.py").write_text("x = 1\n")
    assert warnings() == 0


def test_a_signal_stops_what_runs_and_starts_nothing_more(tmp_path, capsys):
    runs = fake_runs(tmp_path, {"a": [], "b": []})
    up = tmp_path / "up"
    runs[0].resolved.script.write_text(
        "import os, pathlib, signal, sys, time\n"
        f"pathlib.Path({str(tmp_path)!r}, f'started_{{os.getpid()}}').touch()\n"
        f"def end(*_): pathlib.Path({str(up)!r}).write_text('saved'); sys.exit(143)\n"
        f"signal.signal(signal.SIGTERM, end)\npathlib.Path({str(up)!r}).touch()\ntime.sleep(60)\n"
    )

    def interrupt():
        while not up.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    assert make_runs(study_of(runs), runs, 1) == 1
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert up.read_text() == "saved"  # the process has had one signal, and time to end
    err = capsys.readouterr().err
    assert err.count(": stopped") == 2
    assert "2 of 2 runs have not finished; the same command goes on with them" in err
    assert [run.failure for run in runs] == ["", ""]
    assert len(list(tmp_path.glob("started_*"))) == 1
