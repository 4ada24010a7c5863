"""Runs recipes over seeds, one after the other, and prints one table: accuracy before and after, and minutes."""

import csv
import re
import statistics
import subprocess
import sys
from pathlib import Path

from jsonargparse import auto_cli

COLUMNS = "| recipe | seed | held-out sampled accuracy | held-out greedy accuracy | minutes of training |"


def report(
    recipes: list[str], seeds: tuple[int, ...] = (0, 1, 2), folder: str = "runs/report", options: tuple[str, ...] = ()
) -> None:
    """Run every recipe with every seed and print the table as Markdown.

    Args:
        recipes: Names of recipes beside this file.
        seeds: One run each.
        folder: Where the runs go.
        options: Passed on to every run, such as `--trainer.max_steps=100`.
    """
    print(f"{COLUMNS}\n|---|---|---|---|---|")
    for recipe in recipes:
        runs = [run(recipe, seed, folder, options) for seed in seeds]
        for seed, row in zip(seeds, runs, strict=True):
            print(line(recipe, str(seed), row), flush=True)
        if len(runs) > 1:
            print(line(recipe, "mean", tuple(statistics.mean(column) for column in zip(*runs, strict=True))))


def run(recipe: str, seed: int, folder: str, options: tuple[str, ...]) -> tuple[float, ...]:
    """One run in a process of its own: accuracies before and after, and minutes."""
    script = Path(__file__).parent / f"{recipe}.py"
    command = [sys.executable, str(script), "fit", f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
    done = subprocess.run([*command, "--trainer.enable_progress_bar=false", *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {recipe} with seed {seed} failed: {done.stderr.strip().splitlines()[-1]}")
    minutes = float(re.search(r"in ([\d.]+) minutes of training", done.stdout)[1])
    numbers = Path(re.search(r"^numbers +(.+)$", done.stdout, re.MULTILINE)[1])
    rows = [row for row in csv.DictReader(numbers.open()) if row.get("val/sampled_accuracy")]
    names = ("val/sampled_accuracy", "val/greedy_accuracy")
    return (*(float(rows[i][name]) for name in names for i in (0, -1)), minutes)


def line(recipe: str, seed: str, row: tuple[float, ...]) -> str:
    """One row of the table."""
    before, after, greedy_before, greedy_after, minutes = row
    shown = f"{before:.3f} → {after:.3f} | {greedy_before:.3f} → {greedy_after:.3f}"
    return f"| {recipe} | {seed} | {shown} | {minutes:.1f} |"


if __name__ == "__main__":
    auto_cli(report, as_positional=False)
