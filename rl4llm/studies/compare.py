"""`Comparison`: what a study found, by measure and arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from rl4llm.studies.folders import Run, command_of
from rl4llm.studies.measures import Measure, curves
from rl4llm.studies.statistics import Difference, Interval, iqm_interval, mean_interval, paired_difference

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Row:
    """A measure of one arm.

    Args:
        values: One number per seed.
        mean: Their mean.
        iqm: Their interquartile mean.
        difference: How they differ from the baseline with the same seeds; None for the baseline itself.
    """

    values: Mapping[int, float]
    mean: Interval
    iqm: Interval
    difference: Difference | None


@dataclass(frozen=True)
class Cost:
    """What an arm took.

    Args:
        recipe: Its recipe.
        command: The command of its first seed.
        minutes: Mean minutes of training.
        peak_memory_mib: Largest peak memory of its runs.
        failures: Why runs failed, by seed.
        missing: Seeds whose runs have neither finished nor failed.
    """

    recipe: str
    command: str
    minutes: float | None
    peak_memory_mib: float | None
    failures: Mapping[int, str]
    missing: Sequence[int]


@dataclass(frozen=True)
class Comparison:
    """What a study found.

    Args:
        baseline: The arm with which the others are compared.
        rows: By measure and arm; arms without a finished run are left out.
        costs: By arm.
    """

    baseline: str
    rows: Mapping[Measure, Mapping[str, Row]]
    costs: Mapping[str, Cost]


def compared(runs: Sequence[Run], table: "pandas.DataFrame", measures: Sequence[Measure], baseline: str) -> Comparison:
    """Compare the finished runs of a study.

    Args:
        runs: All runs.
        table: What they have logged, from `records`.
        measures: What is compared.
        baseline: Name of the arm with which the others are compared.
    """
    done = {(run.resolved.arm.name, run.seed) for run in runs if run.finished}
    names = list(dict.fromkeys(run.resolved.arm.name for run in runs))
    rows = {}
    for measure in measures:
        found = curves(table, measure.metric)
        values = {
            name: {seed: measure(curve) for seed, curve in sorted(found.get(name, {}).items()) if (name, seed) in done}
            for name in names
        }
        rows[measure] = {name: _row(own, values[baseline], name == baseline) for name, own in values.items() if own}
    costs = {name: _cost([run for run in runs if run.resolved.arm.name == name]) for name in names}
    return Comparison(baseline, rows, costs)


def _row(values: Mapping[int, float], baseline: Mapping[int, float], is_baseline: bool) -> Row:
    numbers = list(values.values())
    common = [seed for seed in values if seed in baseline]
    difference = None
    if not is_baseline:
        difference = paired_difference([values[seed] for seed in common], [baseline[seed] for seed in common])
    return Row(values, mean_interval(numbers), iqm_interval(numbers), difference)


def _cost(runs: Sequence[Run]) -> Cost:
    summaries = [run.summary for run in runs if run.finished]
    minutes = [summary["minutes"] for summary in summaries]
    memory = [summary["peak_memory_mib"] for summary in summaries if summary.get("peak_memory_mib") is not None]
    return Cost(
        recipe=runs[0].resolved.arm.recipe,
        command=command_of(runs[0]),
        minutes=fmean(minutes) if minutes else None,
        peak_memory_mib=max(memory, default=None),
        failures={run.seed: run.failure for run in runs if run.failure and not run.finished},
        missing=[run.seed for run in runs if not run.finished and not run.failure],
    )
