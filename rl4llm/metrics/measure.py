"""`Measure`: the mean of something over held-out responses, kept per prompt, with its bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.checks import check_at_least, check_interval, check_same_shape
from rl4llm.randomness import generator

_CELLS = 2**22  # weights that are held at once


@dataclass(frozen=True, eq=False)
class Measure:
    """A mean over responses or prompts, as a ratio of two sums over prompts.

        mean = Σ totals / Σ counts

    Responses of one prompt are alike, so the prompt is the unit that an interval resamples.

    Args:
        totals: Sum over the counted responses of each prompt.
        counts: How many responses of each prompt are counted; a quantity that belongs to the prompt counts once.

    Example:
        >>> Measure(torch.tensor([2.0, 1.0]), torch.tensor([2.0, 4.0])).mean
        0.5
    """

    totals: Float[Tensor, " prompt"]
    counts: Float[Tensor, " prompt"]

    def __post_init__(self) -> None:
        check_same_shape("Measure", totals=self.totals, counts=self.counts, remedy="pass one entry per prompt")

    @property
    def mean(self) -> float:
        """Return the mean; NaN if nothing is counted."""
        return float(self.totals.double().sum() / self.counts.double().sum())


def bootstrap_means(
    measures: Sequence[Measure], *, resamples: int = 10_000, seed: int = 0
) -> Float[Tensor, "resample measure"]:
    """Return the means of several measures in bootstrap samples of their common prompts.

        i₁ … iₙ uniform over the prompts, with replacement        mean* = Σ totals[i] / Σ counts[i]

    All measures are taken over the same bootstrap samples, so their differences may be taken row by row.

    Args:
        measures: Measures over the same prompts.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap samples.

    Returns:
        float64; NaN where a bootstrap sample counts nothing.

    Raises:
        UsageError: If `resamples` is below 1, or the measures have different numbers of prompts.

    Example:
        >>> bootstrap_means([Measure(torch.ones(3), torch.ones(3))], resamples=2)
        tensor([[1.], [1.]], dtype=torch.float64)

    References:
        Efron, 1979. Bootstrap methods: another look at the jackknife. Annals of Statistics 7 (1).
    """
    check_at_least("bootstrap_means", 1, resamples=resamples)
    for measure in measures:
        check_same_shape("bootstrap_means", first=measures[0].totals, other=measure.totals, remedy="use one set")
    sums = torch.stack([x.double() for measure in measures for x in (measure.totals, measure.counts)], dim=-1)
    prompts, random = len(sums), generator("bootstrap", seed)
    rows, found = max(1, _CELLS // max(prompts, 1)), []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = torch.randint(max(prompts, 1), (size, prompts), generator=random)
        weights = torch.zeros(size, prompts, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        found.append(weights @ sums)
    totals, counts = torch.cat(found).unflatten(-1, (len(measures), 2)).unbind(-1)
    return totals / counts


def percentile_interval(means: Float[Tensor, "resample ..."], *, confidence: float = 0.95) -> Tensor:
    """Return the percentile interval of bootstrap means.

    If all prompts have the same value the interval is that value alone. It then says nothing about what further
    prompts would show: after n prompts without an event, a rate up to about 3 / n is still plausible.

    Args:
        means: From [bootstrap_means][].
        confidence: Share of the bootstrap samples inside; the rest is cut off in equal parts on both sides.

    Returns:
        Low and high along the first axis; bootstrap samples that are NaN are left out.

    Raises:
        UsageError: If `confidence` is not inside (0, 1).

    Example:
        >>> percentile_interval(torch.arange(101.0, dtype=torch.float64), confidence=0.9).round()
        tensor([ 5., 95.], dtype=torch.float64)

    References:
        Efron and Tibshirani, 1993. An Introduction to the Bootstrap, chapter 13.
    """
    check_interval("percentile_interval", 0.0, 1.0, "()", confidence=confidence)
    tail = (1 - confidence) / 2
    return means.nanquantile(torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
