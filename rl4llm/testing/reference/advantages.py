"""What each estimator gives for a whole batch, one response after the other."""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.testing.reference.estimators import discounted_returns, group_relative, leave_one_out
from rl4llm.testing.reference.estimators import gae as _gae
from rl4llm.testing.reference.estimators import length_adaptive_gae as _length_adaptive_gae

Given = tuple[Tensor, Tensor | None]


def gae(part: Any, batch: RolloutBatch) -> Given:
    """Σ (γλ)ᵏ δₜ₊ₖ over the trained tokens of scored responses."""
    lam_returns = part.lam if part.lam_returns is None else part.lam_returns
    return _gae(batch.rewards, _values(batch), _scored(batch), part.gamma, part.lam, lam_returns)


def length_adaptive_gae(part: Any, batch: RolloutBatch) -> Given:
    """The same with λ = 1 − 1/(αl)."""
    return _length_adaptive_gae(batch.rewards, _values(batch), _scored(batch), part.gamma, part.alpha, part.lam_returns)


def monte_carlo(part: Any, batch: RolloutBatch) -> Given:
    """Discounted returns, less the values."""
    mask = _scored(batch)
    returns = discounted_returns(batch.rewards, mask, part.gamma)
    return torch.where(mask, returns - _values(batch), 0.0), returns


def of_group(part: Any, batch: RolloutBatch) -> Given:
    """GRPO's: by the mean and, on request, the standard deviation of the group."""
    numbers = group_relative(_outcomes(batch), batch.group_ids, part.normalize_std, part.unbiased)
    return _at_tokens(batch, numbers.tolist()), None


def of_the_others(part: Any, batch: RolloutBatch) -> Given:
    """RLOO's: by the mean of the other responses."""
    return _at_tokens(batch, leave_one_out(_outcomes(batch), batch.group_ids).tolist()), None


def constant_baseline(part: Any, batch: RolloutBatch) -> Given:
    """The outcome less a constant."""
    numbers = [0.0 if math.isnan(outcome) else outcome - part.baseline for outcome in _outcomes(batch).tolist()]
    return _at_tokens(batch, numbers), None


def _grouped(of_group: Callable[[Any, Sequence[float], Sequence[int]], Sequence[float]]) -> Callable[..., Given]:
    """An estimator from what it does to the outcomes (and lengths) of one group's scored responses."""

    def whole(part: Any, batch: RolloutBatch) -> Given:
        outcomes, lengths, ids = _outcomes(batch).tolist(), batch.lengths.tolist(), batch.group_ids.tolist()
        numbers = [0.0] * len(ids)
        for group in set(ids):
            rows = [row for row, own in enumerate(ids) if own == group and not math.isnan(outcomes[row])]
            if rows:
                given = of_group(part, [outcomes[row] for row in rows], [lengths[row] for row in rows])
                for row, number in zip(rows, given, strict=True):
                    numbers[row] = number
        return _at_tokens(batch, numbers), None

    return whole


def correct(part: Any, outcomes: Sequence[float], lengths: Sequence[int]) -> Sequence[float]:
    """CoRPO's: r − max(pass mark, mean)."""
    return [r - max(part.min_correct, math.fsum(outcomes) / len(outcomes)) for r in outcomes]


def weighted_by_length(part: Any, outcomes: Sequence[float], lengths: Sequence[int]) -> Sequence[float]:
    """OPO's: r − Σ l r / Σ l."""
    if len(set(outcomes)) < 2 or not sum(lengths):
        return [0.0] * len(outcomes)
    baseline = math.fsum(n * r for n, r in zip(lengths, outcomes, strict=True)) / sum(lengths)
    return [r - baseline for r in outcomes]


def in_units_of_the_mean(part: Any, outcomes: Sequence[float], lengths: Sequence[int]) -> Sequence[float]:
    """MaxRL's: (r − r̄)/r̄."""
    mean = math.fsum(outcomes) / len(outcomes)
    return [(r - mean) / mean if mean > 0 and len(set(outcomes)) > 1 else 0.0 for r in outcomes]


def by_quantile(part: Any, outcomes: Sequence[float], lengths: Sequence[int]) -> Sequence[float]:
    """QAE's: (r − quantile)/s."""
    if len(set(outcomes)) < 2:
        return [0.0] * len(outcomes)
    needed = Fraction(str(part.quantile)) * len(outcomes)
    quantile = min(v for v in outcomes if sum(r <= v for r in outcomes) >= needed)
    mean = math.fsum(outcomes) / len(outcomes)
    s = math.sqrt(math.fsum((r - mean) ** 2 for r in outcomes) / (len(outcomes) - 1))
    return [(r - quantile) / s for r in outcomes]


def over_subsets(part: Any, outcomes: Sequence[float], lengths: Sequence[int]) -> Sequence[float]:
    """Pass@k training's: the mean over all subsets with the response of their best score, normalized over subsets."""
    subsets = list(itertools.combinations(range(len(outcomes)), part.k))
    best = {subset: max(outcomes[i] for i in subset) for subset in subsets}
    if len(set(best.values())) < 2:
        return [0.0] * len(outcomes)
    mean = math.fsum(best.values()) / len(subsets)
    std = math.sqrt(math.fsum((b - mean) ** 2 for b in best.values()) / len(subsets))
    own = [[best[subset] for subset in subsets if i in subset] for i in range(len(outcomes))]
    return [(math.fsum(mine) / len(mine) - mean) / std for mine in own]


def single_stream(part: Any, batch: RolloutBatch) -> Given:
    """The outcome less the value before the first token."""
    outcomes, values = _outcomes(batch).tolist(), _values(batch)
    rows = [
        0.0 if math.isnan(outcome) or not tokens else outcome - float(values[row, tokens[0]])
        for row, (outcome, tokens) in enumerate(zip(outcomes, _tokens(batch), strict=True))
    ]
    return _at_tokens(batch, rows), None


def by_segment(part: Any, batch: RolloutBatch) -> Given:
    """VinePPO's: the value at the next step less that at this one; the outcome after the last."""
    (segment_ids,) = batch.require("segment_ids", by="by_segment")
    result, values, outcomes = torch.zeros_like(_values(batch)), _values(batch), _outcomes(batch).tolist()
    for row, tokens in enumerate(_tokens(batch)):
        if math.isnan(outcomes[row]) or not tokens:
            continue
        steps = [list(step) for _, step in itertools.groupby(tokens, key=lambda t: int(segment_ids[row, t]))]
        ahead = [float(values[row, step[0]]) for step in steps[1:]] + [outcomes[row]]
        for step, following in zip(steps, ahead, strict=True):
            for t in step:
                result[row, t] = following - float(values[row, step[0]])
    return result, None


correctness_relative, optimal_baseline = _grouped(correct), _grouped(weighted_by_length)
max_rl, quantile_relative, pass_at_k = _grouped(in_units_of_the_mean), _grouped(by_quantile), _grouped(over_subsets)


def _scored(batch: RolloutBatch) -> Tensor:
    return batch.response_mask & (batch.scores == batch.scores)[:, None]


def _values(batch: RolloutBatch) -> Tensor:
    assert batch.values is not None
    return batch.values


def _tokens(batch: RolloutBatch) -> list[list[int]]:
    return [[t for t, trained in enumerate(row) if trained] for row in batch.response_mask.tolist()]


def _outcomes(batch: RolloutBatch) -> Tensor:
    """The score and all shaping: the sum of the rewards, or the score alone where there is no token to hold it."""
    sums = [sum(float(batch.rewards[row, t]) for t in tokens) for row, tokens in enumerate(_tokens(batch))]
    rows = zip(batch.scores.tolist(), sums, _tokens(batch), strict=True)
    return torch.tensor(
        [score if math.isnan(score) or not tokens else total for score, total, tokens in rows], dtype=torch.float64
    )


def _at_tokens(batch: RolloutBatch, numbers: Sequence[float]) -> Tensor:
    return torch.where(batch.response_mask, torch.tensor(numbers, dtype=torch.float64)[:, None], 0.0)
