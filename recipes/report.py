"""Runs arms of recipes over seeds, compares them seed by seed, and writes tables, curves and all numbers."""

import rl4llm.start

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.evaluation import run_tool
from rl4llm.progress import progress
from rl4llm.studies import (
    Measure,
    Study,
    check_extra,
    flags_of_study,
    make_runs,
    slurm_script,
    study_arms,
    write_report,
)


def report(
    recipe: list[str] | str | None = None,
    arms: Mapping[str, Any] = {},
    grid: Mapping[str, list[Any]] = {},
    flags: Sequence[str] = (),
    seeds: list[int] | int = 6,
    baseline: str | None = None,
    metric: str = "val/sampled_accuracy",
    reach: float | None = None,
    also: Sequence[str] = (),
    title: str = "Report",
    out: str = "runs/report",
    jobs: int | None = None,
    threads: int = 1,
    slurm: bool = False,
    only: int | None = None,
    run: bool = True,
) -> None:
    """Run every arm with every seed, compare the arms with the baseline, and print the tables.

    The first argument may be a recipe or a study file, which holds these options as YAML: `rl4llm report study.yaml`.
    Runs that have finished are not made again, and unfinished ones go on from their checkpoints. The folder `out`
    holds `report.md`, `report.json`, `metrics.parquet`, `curves.png` and the runs.

    Args:
        recipe: A recipe, or several: a name from `rl4llm list` or the path of a recipe file.
        arms: Flags of each arm by name, for example '{full: [], nogate: [--model.gate=null]}'; without arms and grid
            every recipe is an arm. An arm with a recipe of its own is '{recipe: ppo, flags: []}'.
        grid: Values of options, for example '{model.gate.fraction: [0, 0.05, 0.2]}'; every point is an arm.
        flags: Flags of all arms, for example '[--trainer.max_steps=100]'.
        seeds: How many seeds, or a list of them; arms share their seeds and with them all random numbers.
        baseline: The arm with which the others are compared; null for the first one.
        metric: What is compared: its value at the end and its mean over the run.
        reach: Compare also the rollout batches until the metric reaches this value.
        also: Further metrics to compare, by their mean over the run.
        title: Heading of the report.
        out: Folder of the report and its runs.
        jobs: Runs side by side; null for one per GPU, or as many as there are cores.
        threads: CPU threads of each run; with more than one thread, runs may differ in the last bit.
        slurm: Print a script for sbatch that makes every run in a task of its own, and run nothing.
        only: Make only the run of this number and write no report; the tasks of the SLURM array use it.
        run: Make the runs that have not finished; false compares those that have.
    """
    check_extra()
    if not run and not Path(out).is_dir():
        raise UsageError(f"report: --run=false, but there is no folder '{out}' with runs; give it with --out.")
    recipes = [recipe] if isinstance(recipe, str) else recipe or []
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    measures = [Measure(metric), Measure(metric, "mean")]
    measures += [] if reach is None else [Measure(metric, "reach", reach)]
    measures += [Measure(name, "mean") for name in also]
    chosen = study_arms(recipes, arms, grid, flags)
    study = Study(tuple(chosen), tuple(numbers), baseline, tuple(measures), Path(out), threads)
    if only is not None:
        sys.exit(make_runs(one := study.only(only), one.runs(), 1))
    runs = study.runs()
    if slurm:
        print(slurm_script(sys.argv, count=len(runs), jobs=jobs, threads=threads), end="")
        return
    status = make_runs(study, runs, jobs) if run else 0
    with progress.phase("comparing the arms", quick=True):
        text = write_report(study, runs, title)
    print(text)
    sys.exit(status)


if __name__ == "__main__":
    run_tool(report, flags_of_study(sys.argv[1:]))
