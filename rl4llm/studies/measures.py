"""`Measure`: one number per run, taken from the curve of a metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import TYPE_CHECKING, Literal

import numpy as np

from rl4llm.checks import UsageError, check_choice

if TYPE_CHECKING:
    import pandas

Curve = Sequence[tuple[int, float]]
KINDS = ("last", "mean", "reach")


@dataclass(frozen=True)
class Measure:
    """What is compared between arms.

    Args:
        metric: The logged metric.
        kind: "last" takes the value at the end of the run, "mean" the mean of the curve over the rollout batches, and
            "reach" the rollout batches until the curve first reaches the goal.
        goal: The goal of "reach".

    Example:
        >>> Measure("val/sampled_accuracy", "reach", 0.5)([(0, 0.0), (10, 1.0)])
        5.0
    """

    metric: str
    kind: Literal["last", "mean", "reach"] = "last"
    goal: float | None = None

    def __post_init__(self) -> None:
        check_choice("Measure", KINDS, kind=self.kind)
        if (self.kind == "reach") != (self.goal is not None):
            raise UsageError(f"Measure: kind={self.kind}, goal={self.goal}; give a goal with reach, and only with it.")

    @property
    def title(self) -> str:
        """What it is called in tables."""
        if self.kind == "reach":
            return f"rollout batches until {self.metric} reaches {self.goal:g}"
        return f"{self.metric} {'at the end' if self.kind == 'last' else 'over the run'}"

    def __call__(self, curve: Curve) -> float:
        """Return the number of a run; NaN if the metric was not logged or the goal was not reached.

        Args:
            curve: Rollout batches done and value, in ascending order.
        """
        if not curve:
            return nan
        if self.kind == "last":
            return float(curve[-1][1])
        return _mean(curve) if self.goal is None else _reached(curve, self.goal)


def _mean(curve: Curve) -> float:
    """Return the mean of a curve by lines between its points."""
    steps, values = np.asarray(curve, float).T
    wide = np.diff(steps)
    if not wide.sum():
        return float(values.mean())
    return float((wide * (values[1:] + values[:-1]) / 2).sum() / wide.sum())


def _reached(curve: Curve, goal: float) -> float:
    """Return the rollout batches until a goal was first reached, by lines between the points."""
    if curve[0][1] >= goal:
        return float(curve[0][0])
    crossings = (pair for pair in pairwise(curve) if pair[1][1] >= goal)
    (step, low), (later, high) = next(crossings, ((nan, 0.0), (nan, 1.0)))
    return step + (later - step) * (goal - low) / (high - low)


def curves(table: "pandas.DataFrame", metric: str) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Return the curve of a metric by arm and seed; of several values at one step the last one.

    Args:
        table: The records of a study.
        metric: The logged metric.
    """
    found: dict[str, dict[int, list[tuple[int, float]]]] = {}
    rows = table[table["metric"] == metric].drop_duplicates(["arm", "seed", "step"], keep="last").sort_values("step")
    for arm, seed, step, value in rows[["arm", "seed", "step", "value"]].itertuples(index=False):
        found.setdefault(str(arm), {}).setdefault(int(seed), []).append((int(step), float(value)))
    return found
