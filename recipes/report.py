"""Runs recipes over seeds and prints one table: accuracy before and after with its interval, and minutes."""

import rl4llm.start

import json
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from rl4llm.runs.folder import claim_folder
from rl4llm.runs.repeats import half_interval, repeat

COLUMNS = "| method | sampled accuracy | each seed | greedy accuracy | minutes | command |\n|---|---|---|---|---|---|"


def report(
    recipes: list[str], seeds: tuple[int, ...] = (0, 1, 2), options: tuple[str, ...] = (), jobs: int = 1
) -> None:
    """Run every recipe with every seed and print the table as Markdown. The runs are kept in `runs/report`.

    Args:
        recipes: Names of recipes beside this file.
        seeds: One run per seed and recipe.
        options: Flags passed on to every run, such as `--trainer.max_steps=100`.
        jobs: Number of runs side by side.
    """
    print(COLUMNS)
    settings = {name: (Path(__file__).parent / f"{name}.py", options) for name in recipes}
    for name, folders in repeat(settings, seeds, claim_folder(Path("runs"), "report"), jobs):
        print(line(name, [numbers(folder) for folder in folders]), flush=True)


def numbers(folder: Path) -> tuple[float, ...]:
    """Return the sampled and greedy accuracy of a run before and after training, and its minutes."""
    summary = json.loads((folder / "summary.json").read_text())
    accuracies = [summary[at][f"{kind}_accuracy"] for kind in ("sampled", "greedy") for at in ("before", "after")]
    return (*accuracies, summary["minutes"])


def line(recipe: str, runs: list[tuple[float, ...]]) -> str:
    """Format one row of the table; ± is half of the 95 % interval of the mean over seeds."""
    before, after, greedy_before, greedy_after, minutes = (mean(column) for column in zip(*runs, strict=True))
    ends = [row[1] for row in runs]
    interval = f" ± {half_interval(ends):.3f}" if len(ends) > 1 else ""
    sampled = f"{before:.3f} → {after:.3f}{interval}"
    greedy = f"{greedy_before:.3f} → {greedy_after:.3f}"
    cells = (recipe, sampled, " ".join(f"{end:.3f}" for end in ends), greedy, f"{minutes:.1f}")
    return f"| {' | '.join(cells)} | `python recipes/{recipe}.py fit` |"


if __name__ == "__main__":
    rl4llm.start.loaded()
    auto_cli(report, as_positional=False)
