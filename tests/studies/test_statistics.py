"""Statistics over seeds: laws, golden numbers and what may be claimed."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.studies import iqm_interval, mean_interval, paired_difference

NUMBERS = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=9)


@settings(max_examples=15)
@given(NUMBERS)
def test_an_interval_lies_within_the_numbers_and_around_their_mean(numbers):
    found = mean_interval(numbers)
    assert min(numbers) - 1e-12 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= max(numbers) + 1e-12
    assert found == mean_interval(numbers)


@settings(max_examples=15)
@given(NUMBERS, st.floats(-5, 5, width=16))
def test_what_is_added_to_both_arms_changes_no_difference(numbers, shift):
    other = [number**2 for number in numbers]
    first = paired_difference(numbers, other)
    moved = paired_difference([x + shift for x in numbers], [x + shift for x in other])
    assert moved.mean.value == pytest.approx(first.mean.value, abs=1e-9)
    assert moved.mean.low == pytest.approx(first.mean.low, abs=1e-9)
    assert moved.mean.high == pytest.approx(first.mean.high, abs=1e-9)


@settings(max_examples=15)
@given(NUMBERS)
def test_exchanging_the_arms_exchanges_the_signs(numbers):
    other = [1.5 * number - 0.25 for number in numbers]
    forth, back = paired_difference(numbers, other), paired_difference(other, numbers)
    assert forth.mean.value == pytest.approx(-back.mean.value)
    assert (forth.above, forth.below, forth.p) == (back.below, back.above, back.p)
    swapped = {"higher": "lower", "lower": "higher"}
    assert swapped.get(forth.verdict, forth.verdict) == back.verdict


def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side():
    assert iqm_interval([100.0, 1.0, 2.0, 3.0, -50.0]).value == 2.0  # ⌊5/4⌋ = 1 on each side
    assert iqm_interval([5.0, 1.0, 3.0]).value == 3.0  # ⌊3/4⌋ = 0
    assert iqm_interval([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 700.0]).value == 3.5


def test_differences_are_taken_seed_by_seed():
    """The seeds differ by more than the arms do, so that unpaired intervals would overlap."""
    baseline = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9]
    arm = [x + d for x, d in zip(baseline, [0.02, 0.01, 0.03, 0.01, 0.02, 0.01], strict=True)]
    found = paired_difference(arm, baseline)
    assert (found.above, found.below, found.verdict) == (6, 0, "higher")
    assert found.p == 2 * 0.5**6
    assert 0.01 <= found.mean.low < found.mean.value < found.mean.high <= 0.03
    assert paired_difference(baseline, arm).verdict == "lower"
    assert mean_interval(arm).low < mean_interval(baseline).high


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, 0.2, 0.1, 0.2, 0.1], "too few seeds"),  # p = 0.0625, whatever the five differences are
        ([0.1], "too few seeds"),
        ([0.1, -0.1, 0.2, -0.2, 0.1, -0.1], "not distinguishable"),  # the interval holds 0
        ([0.1, -0.1], "not distinguishable"),
        ([0.5, 0.5, 0.5, 0.5, 0.5, -0.01], "not distinguishable"),  # 5 of 6: p = 0.22
        ([0.0] * 6, "not distinguishable: identical"),
        ([0.0], "not distinguishable: identical"),
        ([0.1, nan], "not comparable"),
        ([], "not comparable"),
    ],
)
def test_what_may_be_said_of_differences(differences, verdict):
    found = paired_difference(differences, [0.0] * len(differences))
    assert found.verdict == verdict


def test_seeds_without_a_difference_are_left_out_of_the_sign_test():
    found = paired_difference([0.0, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1], [0.0] * 7)
    assert (found.above, found.below, found.p) == (6, 0, 2 * 0.5**6)


def test_of_arms_without_a_difference_few_are_told_apart():
    """Studies of six and ten seeds in which the arms are the same: at most 5 % claim a difference."""
    random = np.random.default_rng(3)
    for seeds in (6, 10):
        verdicts = [paired_difference(*random.normal(size=(2, seeds)).tolist()).verdict for _ in range(120)]
        assert sum(verdict in ("higher", "lower") for verdict in verdicts) <= 6


def test_one_number_has_no_interval_and_none_no_mean():
    assert isnan(mean_interval([0.5]).low)
    assert mean_interval([0.5]).value == 0.5
    assert isnan(mean_interval([]).value)
    assert isnan(mean_interval([0.5, nan]).value)
    with pytest.raises(UsageError, match="pass one per seed"):
        paired_difference([1.0], [1.0, 2.0])
