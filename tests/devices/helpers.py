"""How several gloo processes are started on one machine, and what their runs left is compared."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import torch

RUNNER = Path(__file__).parent / "runner.py"
SMALL = [
    "--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu", "--data.task.held_out_size=5", "--data.prompts_per_step=5",
    "--model.responses_per_prompt=4", "--model.evaluation.samples=2", "--model.scoring.workers=0",
]  # fmt: skip
SGD = [
    "--model.optimizer=SGD",
    "--model.optimizer.lr=0.1",
    "--model.critic_optimizer=SGD",
    "--model.critic_optimizer.lr=0.1",
]


def free_port(count: int = 16) -> int:
    """The first of so many free ports in a row, below those that a system hands out by itself."""
    while True:
        first = random.randrange(20_000, 32_000)
        if all(_free(port) for port in range(first, first + count)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as trying:
        try:
            trying.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def start(command: list[str], ranks: int, folder: Path, timeout: float = 500) -> list[subprocess.CompletedProcess]:
    """Run a command as so many ranks of one run, and wait for all of them."""
    port, running = free_port(), []
    for rank in range(ranks):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        place |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
        env = {**os.environ, **(place if ranks > 1 else {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())})}
        out, err = (folder / f"rank_{rank}.{kind}" for kind in ("out", "err"))
        with out.open("w") as shown, err.open("w") as said:
            running.append(subprocess.Popen(command, env=env, stdout=shown, stderr=said, stdin=subprocess.DEVNULL))
    done = []
    try:
        for rank, process in enumerate(running):
            code = process.wait(timeout)
            shown = [(folder / f"rank_{rank}.{kind}").read_text() for kind in ("out", "err")]
            done.append(subprocess.CompletedProcess(command, code, *shown))
    finally:
        for process in running:
            process.kill()
    return done


def run_jobs(jobs: list[dict], ranks: int, folder: Path) -> list[dict]:
    """Run recipes one after another on so many ranks, and return what each of them showed."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [{**job, "out": str(folder / f"{index}.pt")} for index, job in enumerate(jobs)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = start([sys.executable, str(RUNNER), str(folder / "jobs.json")], ranks, folder)
    assert all(one.returncode == 0 for one in done), "\n".join(one.stderr[-4000:] for one in done)
    return [torch.load(job["out"], weights_only=True) for job in jobs]


def largest_difference(a: dict, b: dict) -> tuple[float, str]:
    """The largest difference between two runs' parameters, and whose it is."""
    assert set(a["parameters"]) == set(b["parameters"])
    found = [((a["parameters"][n] - b["parameters"][n]).abs().max().item(), n) for n in a["parameters"]]
    return max(found)


def metric_differences(a: dict, b: dict) -> dict[str, float]:
    """The largest difference of every metric over all steps; wall-clock times are left out."""
    differences: dict[str, float] = {}
    for kind in ("training", "validation"):
        assert [step for step, _ in a[kind]] == [step for step, _ in b[kind]]
        for (_, one), (_, other) in zip(a[kind], b[kind], strict=True):
            assert set(one) == set(other), set(one) ^ set(other)
            for name in one:
                if name.startswith("time/") or name.endswith("per_second"):
                    continue
                scale = max(1.0, abs(one[name]))
                differences[name] = max(differences.get(name, 0.0), abs(one[name] - other[name]) / scale)
    return differences
