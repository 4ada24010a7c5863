"""The numbers of an evaluation, per task and as their mean over tasks, as JSON, Markdown and text."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor

from rl4llm.metrics import Measure, bootstrap_means, percentile_interval

AVERAGE = "mean over tasks"  # no task is named so


@dataclass(frozen=True)
class Number:
    """A mean with its interval.

    Args:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end of the interval.
        counted: Responses, or prompts, that the mean is over.
    """

    mean: float
    low: float
    high: float
    counted: int

    def __str__(self) -> str:
        return "" if isnan(self.mean) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


Numbers = Mapping[str, Mapping[str, Number]]


def numbers(
    tasks: Mapping[str, Mapping[str, Measure]], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Number]]:
    """Return every measure of every task with its 95 % bootstrap interval, and the mean over several tasks.

    The mean over tasks gives every task the same weight. Prompts are resampled within their task, so its interval
    says nothing about other tasks.

    Args:
        tasks: The measures of each task, by name.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap samples.
    """
    found: dict[str, dict[str, Number]] = {}
    drawn: dict[str, dict[str, Tensor]] = {}
    for index, (task, measures) in enumerate(tasks.items()):
        means = bootstrap_means(list(measures.values()), resamples=resamples, seed=seed + index)
        drawn[task] = dict(zip(measures, means.unbind(-1), strict=True))
        found[task] = {
            name: _number(measure.mean, drawn[task][name], int(measure.counts.sum()))
            for name, measure in measures.items()
        }
    if len(tasks) > 1:
        shared = [name for name in next(iter(found.values())) if all(name in own for own in found.values())]
        found[AVERAGE] = {
            name: _number(
                sum(own[name].mean for own in found.values()) / len(tasks),
                torch.stack([own[name] for own in drawn.values()]).mean(0),
                sum(own[name].counted for own in found.values()),
            )
            for name in shared
        }
    return found


def _number(mean: float, drawn: Tensor, counted: int) -> Number:
    low, high = percentile_interval(drawn).tolist()
    return Number(mean, low, high, counted)


def title(name: str) -> str:
    """Return the heading of a measure.

    Example:
        >>> title("pass_at_4"), title("response_length")
        ('pass@4', 'response length')
    """
    return re.sub(r"_at_(\d+)$", r"@\1", name).replace("_", " ")


def as_markdown(found: Numbers, about: Sequence[str]) -> str:
    """Return a table with one row per task, below what it is about."""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    head = ["task", *map(title, names)]
    lines = [*about, "", _row(head), _row(["---"] * len(head))]
    lines += [
        _row([task.replace("|", r"\|"), *(str(own.get(name, "")) for name in names)]) for task, own in found.items()
    ]
    return "\n".join([*lines, "", "Intervals: 95 %, percentile bootstrap over prompts.", ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_text(found: Numbers) -> str:
    """Return the numbers for a console, one measure per line."""
    lines = []
    for task, own in found.items():
        lines += ["", task, *(f"  {title(name):24}{number}" for name, number in own.items())]
    return "\n".join(lines)


def as_json(found: Numbers, about: Mapping[str, Any]) -> str:
    """Return everything as JSON; a number that is none is null."""

    def plain(number: Number) -> dict[str, float | None]:
        return {name: None if isnan(x) else x for name, x in vars(number).items()}

    tasks = {task: {name: plain(number) for name, number in own.items()} for task, own in found.items()}
    average = tasks.pop(AVERAGE, None)
    return (
        json.dumps({**about, "confidence": 0.95, "tasks": tasks, "average": average}, indent=2, allow_nan=False) + "\n"
    )
