"""Measures: one number per run from the curve of a metric."""

from math import isnan, nan

import pytest

from rl4llm.checks import UsageError
from rl4llm.studies import Measure


@pytest.mark.parametrize(
    ("curve", "batches"),
    [
        ([(1, 0.4), (11, 0.6), (21, 1.0)], 16.0),
        ([(1, 0.4), (11, 0.8)], 11.0),
        ([(1, 0.9), (11, 0.5)], 1.0),
        ([(1, 0.4), (11, 0.3), (21, 0.9), (31, 0.95)], 11 + 10 * 0.5 / 0.6),
        ([(1, 0.4), (11, 0.7)], nan),
        ([], nan),
    ],
)
def test_a_goal_is_reached_on_the_line_between_two_evaluations(curve, batches):
    assert Measure("x", "reach", 0.8)(curve) == pytest.approx(batches, nan_ok=True)


def test_the_mean_of_a_curve_weighs_its_points_by_their_distance():
    assert Measure("x", "mean")([(0, 0.0), (10, 1.0)]) == 0.5
    assert Measure("x", "mean")([(0, 0.0), (1, 1.0), (10, 1.0)]) == pytest.approx(0.95)
    assert Measure("x", "mean")([(3, 0.7)]) == 0.7
    assert isnan(Measure("x", "mean")([]))


def test_the_last_value_is_that_of_the_end():
    assert Measure("x")([(0, 0.2), (5, 0.9), (9, 0.7)]) == 0.7
    assert isnan(Measure("x")([]))


def test_only_reach_has_a_goal():
    with pytest.raises(UsageError, match="give a goal with reach"):
        Measure("x", "reach")
    with pytest.raises(UsageError, match="give a goal with reach"):
        Measure("x", "mean", 0.5)
