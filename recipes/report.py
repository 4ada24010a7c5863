"""Runs recipes over seeds and prints one table: accuracy before and after with its interval, and minutes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from jsonargparse import auto_cli

from rl4llm.runs.folder import claim_folder

COLUMNS = "| method | sampled accuracy | each seed | greedy accuracy | minutes | command |\n|---|---|---|---|---|---|"
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # 97.5 %, by seeds


def report(
    recipes: list[str], seeds: tuple[int, ...] = (0, 1, 2), options: tuple[str, ...] = (), jobs: int = 1
) -> None:
    """Run every recipe with every seed and print the table as Markdown. The runs are kept in `runs/report`.

    Args:
        recipes: Names of recipes beside this file.
        seeds: One run each.
        options: Passed on to every run, such as `--trainer.max_steps=100`.
        jobs: Runs side by side.
    """
    print(COLUMNS)
    place = claim_folder(Path("runs"), "report")
    with ThreadPoolExecutor(jobs) as pool:
        runs = {name: [pool.submit(run, name, seed, options, place / str(seed)) for seed in seeds] for name in recipes}
        for name in recipes:
            print(line(name, [one.result() for one in runs[name]]), flush=True)


def run(recipe: str, seed: int, options: tuple[str, ...], root: Path) -> tuple[float, ...]:
    """One run: sampled and greedy accuracy before and after, and minutes."""
    summary = json.loads((launch(recipe, seed, options, root) / "summary.json").read_text())
    accuracies = [summary[at][f"{kind}_accuracy"] for kind in ("sampled", "greedy") for at in ("before", "after")]
    return (*accuracies, summary["minutes"])


def launch(recipe: str, seed: int, options: Sequence[str], root: Path) -> Path:
    """Run a recipe in a process of its own and return its run folder."""
    script = Path(__file__).parent / f"{recipe}.py"
    command = [sys.executable, str(script), "fit", f"--seed_everything={seed}", f"--trainer.default_root_dir={root}"]
    done = subprocess.run([*command, "--trainer.enable_progress_bar=false", *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {recipe} with seed {seed} failed: {done.stderr.strip().splitlines()[-1]}")
    return root / recipe / "version_0"


def half_interval(numbers: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean over seeds (Student); NaN for one seed."""
    return STUDENT[len(numbers)] * stdev(numbers) / len(numbers) ** 0.5 if len(numbers) in STUDENT else float("nan")


def line(recipe: str, runs: list[tuple[float, ...]]) -> str:
    """One row of the table; ± is half of the 95 % interval of the mean over seeds."""
    before, after, greedy_before, greedy_after, minutes = (mean(column) for column in zip(*runs, strict=True))
    ends = [row[1] for row in runs]
    interval = f" ± {half_interval(ends):.3f}" if len(ends) > 1 else ""
    sampled = f"{before:.3f} → {after:.3f}{interval}"
    greedy = f"{greedy_before:.3f} → {greedy_after:.3f}"
    cells = (recipe, sampled, " ".join(f"{end:.3f}" for end in ends), greedy, f"{minutes:.1f}")
    return f"| {' | '.join(cells)} | `python recipes/{recipe}.py fit` |"


if __name__ == "__main__":
    auto_cli(report, as_positional=False)
