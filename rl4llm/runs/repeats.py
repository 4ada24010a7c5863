"""Recipes run over several seeds, each run in a process of its own, and the interval of a mean over the seeds."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isnan, nan
from pathlib import Path
from statistics import stdev

from rl4llm.progress import progress

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # 97.5 %, by seeds


def launch(script: Path, seed: int, flags: Sequence[str], root: Path) -> Path:
    """Run a recipe file in a process of its own and return its run folder.

    Raises:
        SystemExit: If the run fails, with the last line that it wrote to standard error.
    """
    command = [sys.executable, str(script), "fit", f"--seed_everything={seed}", f"--trainer.default_root_dir={root}"]
    done = subprocess.run([*command, "--trainer.enable_progress_bar=false", *flags], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise SystemExit(f"error: {script.stem} with seed {seed} failed: {last.removeprefix('error: ')}")
    return root / script.stem / "version_0"


def repeat(
    settings: Mapping[str, tuple[Path, Sequence[str]]], seeds: Sequence[int], place: Path, jobs: int
) -> Iterator[tuple[str, list[Path]]]:
    """Run every setting with every seed; yield each setting's name and run folders as soon as its runs have ended.

    Args:
        settings: Recipe file and flags of each setting, by name.
        seeds: One run per seed and setting.
        place: Folder for all runs.
        jobs: Number of runs side by side.
    """
    total = len(settings) * len(seeds)
    with progress.phase(f"training {total} runs in '{place}'", total, "runs"), ThreadPoolExecutor(jobs) as pool:
        started = {
            name: [pool.submit(launch, script, seed, flags, place / str(index) / str(seed)) for seed in seeds]
            for index, (name, (script, flags)) in enumerate(settings.items())
        }
        for run in (run for runs in started.values() for run in runs):
            run.add_done_callback(lambda _: progress.advance())
        for name, runs in started.items():
            yield name, [run.result() for run in runs]


def half_interval(numbers: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean over seeds (Student); NaN if a number is, for one seed, or above ten.

    Example:
        >>> round(half_interval([1.0, 2.0, 3.0]), 3)
        2.483
    """
    if len(numbers) not in STUDENT or any(isnan(number) for number in numbers):
        return nan
    return STUDENT[len(numbers)] * stdev(numbers) / len(numbers) ** 0.5
