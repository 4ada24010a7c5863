"""Runs that are really killed: `kill -9` at random moments, then the same command with `--ckpt_path=last`."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

TINY = [
    "--trainer.max_steps=12", "--trainer.val_check_interval=4", "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu", "--data.task.held_out_size=8", "--data.prompts_per_step=6",
    "--data.task.train_size=21", "--model.responses_per_prompt=4", "--model.evaluation.samples=2",
    "--model.scoring.workers=0", "--checkpoints.every_n_batches=1",
]  # fmt: skip
RECIPES = {
    "asyppo": [],
    "asyppo with adapters": ["--model.critics=AdapterCritics", "--model.critics.adapter.rank=4"],
    "spo": ["--model.responses_per_prompt=2", "--model.critics.samples=2"],
    "r2vpo": [],
    "dapo": ["--model.dynamic_sampling.max_draws=3"],
}


def command(recipe: str, root: Path, *more: str) -> list[str]:
    flags = [*TINY, *RECIPES[recipe], f"--trainer.default_root_dir={root}"]
    return [sys.executable, f"recipes/{script(recipe)}.py", "fit", *flags, *more]


def script(recipe: str) -> str:
    """Which recipe it is, without what is changed about it."""
    return recipe.split()[0]


def launch(words: list[str], log: Path) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    with log.open("a") as out:
        return subprocess.Popen(
            words, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )


def finish(words: list[str], log: Path, timeout: float = 300) -> None:
    code = launch(words, log).wait(timeout)
    assert code == 0, log.read_text()[-3000:]


def checkpoints(root: Path, recipe: str) -> list[Path]:
    return sorted((root / script(recipe)).glob("version_*/checkpoints/last.ckpt"))


def killed(recipe: str, root: Path, kills: int, seed: int) -> tuple[Path, int]:
    """Kill a run up to so many times and let it finish; returns its folder and how often it was killed."""
    root.mkdir(parents=True, exist_ok=True)
    draw, done, log = random.Random(seed), 0, root / "log.txt"
    while True:
        more = ["--ckpt_path=last"] if checkpoints(root, recipe) else []
        process = launch(command(recipe, root, *more), log)
        if done < kills and strike(process, root, draw):
            done += 1
        else:
            assert process.wait(300) == 0, log.read_text()[-3000:]
            return newest(root, recipe), done


def strike(process: subprocess.Popen, root: Path, draw: random.Random) -> bool:
    """Kill a run at a random moment, mostly while it trains; False if it had ended before."""
    begun = shown(root)
    if draw.random() < 0.2:  # while it starts
        time.sleep(draw.uniform(0.0, 10.0))
    else:
        while process.poll() is None and begun == shown(root):
            time.sleep(0.02)  # until it has shown its first number
        time.sleep(draw.uniform(0.0, 0.8))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def shown(root: Path) -> dict[Path, int]:
    """When each `metrics.csv` was last written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("metrics.csv")}


def newest(root: Path, recipe: str) -> Path:
    return max((root / script(recipe)).glob("version_*"), key=lambda folder: int(folder.name.removeprefix("version_")))


def rows(folder: Path) -> list[dict[str, str]]:
    """The numbers of a run without the wall-clock times."""
    with (folder / "metrics.csv").open() as file:
        found = [
            {k: v for k, v in row.items() if "time/" not in k and "per_second" not in k} for row in csv.DictReader(file)
        ]
    return [{k: v for k, v in row.items() if v} for row in found]


def assert_same(one: Path, other: Path) -> None:
    """Both runs showed the same numbers and ended in the same state, to the last bit."""
    assert rows(one) == rows(other)
    a, b = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, other))
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "loop", "global_step"):
        same(a[name], b[name], name)


def same(a: object, b: object, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape, where
        assert bool(((a == b) | ((a != a) & (b != b))).all()), where
    elif isinstance(a, dict):
        assert set(a) == set(b), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{index}]")
    else:
        assert a == b, (where, a, b)
