"""What `recipes/compare.py` says of curves, and of runs that share a seed."""

from math import isnan

import pytest

from recipes.compare import line, reached


@pytest.mark.parametrize(
    ("curve", "batches"),
    [
        ([(1, 0.4), (11, 0.6), (21, 1.0)], 16.0),
        ([(1, 0.4), (11, 0.8)], 11.0),
        ([(1, 0.9), (11, 0.5)], 1.0),
        ([(1, 0.4), (11, 0.3), (21, 0.9), (31, 0.95)], 11 + 10 * 0.5 / 0.6),
    ],
)
def test_an_accuracy_is_reached_on_the_line_between_two_evaluations(curve, batches):
    assert reached(curve, 0.8) == pytest.approx(batches)


def test_an_accuracy_that_is_never_reached_is_no_number():
    assert isnan(reached([(1, 0.4), (11, 0.7)], 0.8))
    assert isnan(reached([], 0.8))


def test_differences_are_taken_seed_by_seed():
    """Seeds that differ by more than the settings do: unpaired, the interval would be far wider."""
    first = [(0.5, 30.0), (0.7, 20.0), (0.9, 10.0)]
    other = [(0.4, 31.0), (0.61, 22.0), (0.8, 12.0)]
    assert line("x", first, first) == "| x | 0.700 |  | 20.0 |  |"
    assert line("x", other, first) == "| x | 0.603 | -0.097 [-0.111, -0.082] | 21.7 | +1.7 [+0.2, +3.1] |"
