"""Runs settings of one recipe with the same seeds and prints how each differs from the first, seed by seed."""

import rl4llm.start

import csv
import json
from itertools import pairwise
from math import nan
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from rl4llm.runs.folder import claim_folder
from rl4llm.runs.repeats import half_interval, repeat

COLUMNS = "| setting | sampled accuracy | difference | batches to {reach} | difference |\n|---|---|---|---|---|"


def compare(
    recipe: str,
    settings: dict[str, list[str]],
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    reach: float = 0.8,
    jobs: int = 1,
) -> None:
    """Run every setting with every seed and print the table as Markdown. Runs are kept in `runs/compare`.

    Args:
        recipe: Name of a recipe beside this file.
        settings: Flags of each setting, by its name; the others are compared with the first.
        seeds: One run per seed and setting; differences are taken between runs of one seed.
        reach: Held-out sampled accuracy; the second measure is how soon it is reached, by lines between evaluations.
        jobs: Number of runs side by side.
    """
    print(COLUMNS.format(reach=reach))
    script, first = Path(__file__).parent / f"{recipe}.py", None
    chosen = {name: (script, flags) for name, flags in settings.items()}
    for name, folders in repeat(chosen, seeds, claim_folder(Path("runs"), "compare"), jobs):
        ends = [measures(folder, reach) for folder in folders]
        first = first or ends
        print(line(name, ends, first), flush=True)


def measures(folder: Path, reach: float) -> tuple[float, float]:
    """Return the accuracy of a run at its end, and the batches until it was reached."""
    with (folder / "metrics.csv").open() as file:
        rows = [(int(row["step"]) + 1, row["val/sampled_accuracy"]) for row in csv.DictReader(file)]
    curve = [(step, float(accuracy)) for step, accuracy in rows if accuracy]
    return json.loads((folder / "summary.json").read_text())["after"]["sampled_accuracy"], reached(curve, reach)


def reached(curve: list[tuple[int, float]], goal: float) -> float:
    """Return the batches until an accuracy was first reached, by lines between evaluations; NaN if never."""
    if curve and curve[0][1] >= goal:
        return float(curve[0][0])
    crossings = (pair for pair in pairwise(curve) if pair[1][1] >= goal)
    (step, low), (later, high) = next(crossings, ((nan, 0.0), (nan, 1.0)))
    return step + (later - step) * (goal - low) / (high - low)


def line(name: str, runs: list[tuple[float, float]], first: list[tuple[float, float]]) -> str:
    """Format one row of the table: means, and mean paired differences with their 95 % intervals (Student)."""
    cells = [name]
    for measure, digits in ((0, 3), (1, 1)):
        ends = [run[measure] for run in runs]
        differences = [end - start[measure] for end, start in zip(ends, first, strict=True)]
        middle, wide = mean(differences), half_interval(differences)
        interval = f"{middle:+.{digits}f} [{middle - wide:+.{digits}f}, {middle + wide:+.{digits}f}]"
        cells += [f"{mean(ends):.{digits}f}", "" if runs is first else interval]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    rl4llm.start.loaded()
    auto_cli(compare, as_positional=False)
