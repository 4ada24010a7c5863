"""Several processes with something wrong on one of them: none hangs, one speaks, and what was saved is good."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl4llm.runs.finding import find_last
from tests.devices.helpers import SMALL, run_jobs, start
from tests.devices.killing import assert_same, command, finish, newest, rows

pytestmark = pytest.mark.devices
ROOT = Path(__file__).parents[2]
NOISE = ("Seed set to", "INFO:", "[rank", "Initializing distributed", "-----", "distributed_backend", "All dist", "💡")
NOISE += ("GPU available", "TPU available", "[W", "[E", "warning: FSDP")  # sharded critics run whole rows and say so
NOISE += ("asyppo: ",)  # what it does next
PART = {
    "collect": "--model.engine=tests.devices.faults.Collecting",
    "judge": "--model.gate=tests.devices.faults.Judging",
    "improve": "--model.objective=tests.devices.faults.Improving",
}


def said(text):
    """What a person reads on standard error, without warnings and the lines of a start."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(NOISE)]
    return [line for line in lines if "Warning" not in line and not line.startswith(" ")]


def two(root, where, what, strategy, monkeypatch):
    """AsyPPO on two ranks, one of which goes wrong; exit codes and everything that was said."""
    monkeypatch.setenv("RL4LLM_FAULT", what)
    words = command("asyppo", root, "--trainer.devices=2", f"--trainer.strategy={strategy}", PART[where])
    began = time.monotonic()
    done = start(words, 2, root, timeout=150)
    assert time.monotonic() - began < 140
    return [one.returncode for one in done], [line for one in done for line in said(one.stderr)]


# --- hard cases that are no faults ----------------------------------------------------------------------------------

EMPTY = ["--data.prompts_per_step=1", "--model.responses_per_prompt=2", "--data.task.held_out_size=1"]
CASES = {
    "fewer prompts than ranks, and critics whose shard is empty": ("asyppo", EMPTY),
    "a rank without a score": ("grpo", ["--data.task.reward=tests.devices.faults.scored_on_the_first_rank_only"]),
    "prompts drawn until enough differ": ("dapo", ["--model.dynamic_sampling.max_draws=2"]),
    "bf16-mixed": ("asyppo", ["--trainer.precision=bf16-mixed"]),
    "bf16-true": ("asyppo", ["--trainer.precision=bf16-true"]),
}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_no_rank_waits_for_another_for_ever(strategy, tmp_path):
    options = [f"--trainer.strategy={strategy}", "--trainer.devices=2", "--trainer.max_steps=2"]
    jobs = [
        {"recipe": recipe, "args": ["fit", *SMALL, *flags, *options, f"--trainer.default_root_dir={tmp_path}/{place}"]}
        for place, (recipe, flags) in enumerate(CASES.values())
    ]
    for case, shown in zip(CASES, run_jobs(jobs, 2, tmp_path), strict=True):
        assert shown["training"], case
        assert shown["validation"][-1][0] == 2, case


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "what", "strategy"), [("collect", "usage:1", "ddp"), ("improve", "usage:1", "fsdp2")]
)
def test_an_error_on_one_rank_is_one_line(where, what, strategy, tmp_path, monkeypatch):
    codes, lines = two(tmp_path, where, what, strategy, monkeypatch)
    assert codes == [2, 2], lines
    (line,) = lines
    assert line.startswith("error: Part: the flask is empty; fill it.")


def test_a_rank_that_is_killed_in_an_update_ends_the_other(tmp_path, monkeypatch):
    codes, lines = two(tmp_path, "improve", "SIGKILL:1", "fsdp2", monkeypatch)
    assert codes == [1, -9]
    (line,) = lines
    assert line.startswith("error: another process of this run has ended (killed, or out of memory)")


def test_a_signal_to_one_rank_saves_all_and_one_process_goes_on(tmp_path, monkeypatch):
    codes, lines = two(tmp_path, "judge", "SIGTERM:1", "fsdp2", monkeypatch)
    assert codes == [143, 143]
    (line,) = lines
    last = find_last(tmp_path, "asyppo")
    assert line == f"stopped by SIGTERM after 3 rollout batches; saved {last}; go on with --ckpt_path=last"
    monkeypatch.delenv("RL4LLM_FAULT")
    flags = ["--ckpt_path=last", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.max_steps=5"]
    words = [*command("asyppo", tmp_path)[:3], f"--trainer.default_root_dir={tmp_path}", *flags]
    finish(words, tmp_path / "log.txt")
    assert [int(row["step"]) for row in rows(newest(tmp_path, "asyppo")) if "train/reward" in row] == [0, 1, 2, 3, 4]


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_two_process_command_of_the_page_runs(tmp_path):
    page = (ROOT / "docs/many-devices.md").read_text()
    written = re.search(r"```bash\n(python recipes/asyppo\.py fit .*--trainer\.devices=2 .*)\n```", page)[1]
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(shlex.split(written), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "asyppo: 2 steps in" in done.stdout
    assert len(rows(tmp_path / "runs/asyppo/version_0")) >= 3


# --- one seed -------------------------------------------------------------------------------------------------------


def test_two_runs_with_one_seed_are_bit_equal_with_two_threads(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    for name in ("one", "other"):
        words = command("asyppo", tmp_path / name, "--trainer.max_steps=2", "--data.prompts_per_step=20")
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same(newest(tmp_path / "one", "asyppo"), newest(tmp_path / "other", "asyppo"))
