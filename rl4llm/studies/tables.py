"""A comparison as Markdown for readers and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan
from typing import Any

from rl4llm.studies.compare import Comparison, Cost, Row
from rl4llm.studies.statistics import Difference, Interval

_NOTE = (
    "Intervals are 95 % bootstrap intervals over seeds, resampled within each arm; differences are paired by seed, and "
    "the sign test counts the seeds above and below the baseline. An arm is called higher or lower only where the "
    "interval of the difference leaves out 0 and the sign test rejects at 5 %, which takes at least six seeds."
)
_HEADS = ("arm", "seeds", "mean", "interquartile mean")
_COST_HEADS = ("arm", "minutes", "peak memory", "command of the first seed")


def as_markdown(found: Comparison, title: str) -> str:
    """Return the tables of a comparison.

    Args:
        found: The comparison.
        title: The heading.
    """
    parts = [f"# {title}", _NOTE + _by_chance(found)]
    for measure, rows in found.rows.items():
        heads = [*_HEADS, f"difference to {found.baseline}", "sign test", "verdict"]
        parts += [f"## {measure.title}", markdown_table(heads, [_cells(name, row) for name, row in rows.items()])]
    costs = found.costs.items()
    parts += ["## Runs", markdown_table(_COST_HEADS, [_cost_cells(name, cost) for name, cost in costs])]
    failures = [f"- {name}, seed {seed}: {why}" for name, cost in costs for seed, why in cost.failures.items()]
    missing = [f"- {name}: seeds {', '.join(map(str, cost.missing))}" for name, cost in costs if cost.missing]
    parts += ["## Failed runs", "\n".join(failures)] if failures else []
    parts += ["## Runs that have not finished", "\n".join(missing)] if missing else []
    return "\n\n".join(parts) + "\n"


def as_json(found: Comparison, about: Mapping[str, Any]) -> str:
    """Return the numbers of a comparison; NaN becomes null.

    Args:
        found: The comparison.
        about: What the study is.
    """
    arms = {
        name: {
            **asdict(cost),
            "measures": {measure.title: asdict(rows[name]) for measure, rows in found.rows.items() if name in rows},
        }
        for name, cost in found.costs.items()
    }
    return json.dumps(_without_nan({**about, "baseline": found.baseline, "arms": arms}), indent=2) + "\n"


def _by_chance(found: Comparison) -> str:
    count = sum(row.difference is not None for rows in found.rows.values() for row in rows.values())
    return f" There are {count} comparisons, each at 5 %: chance alone can show some." if count > 9 else ""


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; vertical bars inside cells are escaped."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(name: str, row: Row) -> list[str]:
    cells = [name, str(len(row.values)), interval_text(row.mean), interval_text(row.iqm)]
    return cells + (["", "", "baseline"] if row.difference is None else _difference_cells(row.difference))


def _difference_cells(difference: Difference) -> list[str]:
    counts = f"{difference.above} above, {difference.below} below, p = {difference.p:.2g}"
    return [interval_text(difference.mean, sign="+"), counts, difference.verdict]


def interval_text(interval: Interval, sign: str = "") -> str:
    """Return a number with its interval in brackets; `sign` is that of Python's number format."""
    if isnan(interval.value):
        return "–"
    digits = 3 if abs(interval.value) < 10 else 1
    value, low, high = (f"{x:{sign}.{digits}f}" for x in (interval.value, interval.low, interval.high))
    return value if isnan(interval.low) else f"{value} [{low}, {high}]"


def _cost_cells(name: str, cost: Cost) -> list[str]:
    minutes = "–" if cost.minutes is None else f"{cost.minutes:.1f}"
    memory = "–" if cost.peak_memory_mib is None else f"{cost.peak_memory_mib:.0f} MiB"
    failed = f" ({len(cost.failures)} failed)" if cost.failures else ""
    return [name + failed, minutes, memory, f"`{cost.command}`"]


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value
