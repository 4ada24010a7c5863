"""Statistics over seeds: the mean and the interquartile mean with bootstrap intervals, and paired differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, Literal

import numpy as np

from rl4llm.checks import UsageError

RESAMPLES, CONFIDENCE = 10_000, 0.95
FEWEST = 6  # seeds with which a two-sided sign test can reject at 5 %: 2 · 0.5⁶ = 0.031
Verdict = Literal[
    "higher", "lower", "not distinguishable", "too few seeds", "not distinguishable: identical", "not comparable"
]


@dataclass(frozen=True)
class Interval:
    """A statistic and its 95 % bootstrap interval.

    Args:
        value: The statistic.
        low: Lower end; NaN with fewer than two seeds.
        high: Upper end; NaN with fewer than two seeds.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How an arm differs from the baseline, seed by seed.

    Args:
        mean: Mean of the differences, with its interval.
        above: Number of seeds with which the arm is above the baseline.
        below: Number of seeds with which it is below.
        p: p-value of the two-sided sign test; seeds without a difference are left out.
        verdict: What can be said.
    """

    mean: Interval
    above: int
    below: int
    p: float
    verdict: Verdict


def mean_interval(numbers: Sequence[float]) -> Interval:
    """Return the mean over seeds with its 95 % bootstrap interval.

    Args:
        numbers: One number per seed.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(value=0.5, low=0.5, high=0.5)
    """
    return _bootstrapped(numbers, np.mean)


def iqm_interval(numbers: Sequence[float]) -> Interval:
    """Return the interquartile mean over seeds with its 95 % bootstrap interval.

    The interquartile mean leaves out the ⌊n/4⌋ smallest and the ⌊n/4⌋ largest of n numbers.

    Args:
        numbers: One number per seed.

    Example:
        >>> iqm_interval([0.0, 0.5, 0.7, 9.0]).value
        0.6

    References:
        Agarwal et al., 2021. Deep reinforcement learning at the edge of the statistical precipice. arXiv:2108.13264.
    """
    from scipy.stats import trim_mean

    return _bootstrapped(numbers, partial(trim_mean, proportiontocut=0.25))


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compare an arm with the baseline seed by seed.

        dᵢ = armᵢ − baselineᵢ          interval: bootstrap of the mean of d          sign test: #{dᵢ > 0} ~ Bin(n, ½)

    The verdict is `higher` or `lower` only where the interval leaves out 0 and the sign test rejects at 5 %. With
    fewer than six seeds the sign test cannot reject, and the interval is too narrow to be relied on alone, so the
    verdict is `too few seeds` where the interval leaves out 0. It is `not distinguishable: identical` where no seed
    differs at all, and `not comparable` where a number is NaN, as it is for a run that never reaches a goal.

    Args:
        arm: One number per seed.
        baseline: The numbers of the baseline, in the same order of seeds.

    Raises:
        UsageError: If the two have different numbers of seeds.

    Example:
        >>> paired_difference([0.7, 0.8, 0.9, 0.7, 0.8, 0.9], [0.5, 0.6, 0.6, 0.5, 0.7, 0.7]).verdict
        'higher'
    """
    from scipy.stats import binomtest

    if len(arm) != len(baseline):
        raise UsageError(
            f"paired_difference: {len(arm)} numbers for the arm, {len(baseline)} for the baseline; pass one per seed."
        )
    differences = np.subtract(np.asarray(arm, float), np.asarray(baseline, float))
    mean = mean_interval(differences.tolist())
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    p = float(binomtest(above, above + below).pvalue) if above + below else 1.0
    return Difference(mean, above, below, p, _verdict(differences, mean, p))


def _verdict(differences: Any, mean: Interval, p: float) -> Verdict:
    if not len(differences) or np.isnan(differences).any():
        return "not comparable"
    if not differences.any():
        return "not distinguishable: identical"
    if len(differences) < 2:
        return "too few seeds"
    if mean.low <= 0 <= mean.high:
        return "not distinguishable"
    if len(differences) < FEWEST:
        return "too few seeds"
    if p >= 1 - CONFIDENCE:
        return "not distinguishable"
    return "higher" if mean.value > 0 else "lower"


def _bootstrapped(numbers: Sequence[float], statistic: Callable[..., Any]) -> Interval:
    """Return a statistic of the numbers with its percentile interval, the same at every call."""
    from scipy.stats import bootstrap

    if not len(numbers):
        return Interval(nan, nan, nan)
    value = float(statistic(np.asarray(numbers, float)))
    if len(numbers) < 2 or np.isnan(numbers).any():
        return Interval(value, nan, nan)
    options = {"confidence_level": CONFIDENCE, "n_resamples": RESAMPLES, "method": "percentile"}
    found = bootstrap((numbers,), statistic, rng=np.random.default_rng(0), **options).confidence_interval
    return Interval(value, float(found.low), float(found.high))
