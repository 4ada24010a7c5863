"""Slow, obviously correct twins of the gates, the shards and the value losses: plain Python loops over numbers."""

import math
import statistics
from fractions import Fraction

import torch
from torch import Tensor


def spread(critic_values: Tensor) -> Tensor:
    """Population standard deviation over the critics, one token after another."""
    _, batch, time = critic_values.shape
    result = torch.zeros(batch, time, dtype=critic_values.dtype)
    for row in range(batch):
        for step in range(time):
            result[row, step] = statistics.pstdev(critic_values[:, row, step].tolist())
    return result


def drop_smallest(x: Tensor, response_mask: Tensor, fraction: float) -> Tensor:
    """Sorts the trained tokens in Python and keeps all that reach the first value beyond the dropped share."""
    trained = [position for position in _positions(response_mask) if response_mask[position]]
    number = {position: float(x[position]) for position in trained}
    number = {position: math.inf if math.isnan(value) else value for position, value in number.items()}
    dropped = math.floor(Fraction(str(fraction)) * len(trained))
    kept = torch.zeros_like(response_mask)
    for position in trained:
        kept[position] = number[position] >= sorted(number.values())[dropped]
    return kept


def group_shards(group_ids: Tensor, num_critics: int) -> Tensor:
    """Deals each group's rows, in order, into consecutive parts, starting one critic later for each new group."""
    labels = list(dict.fromkeys(group_ids.tolist()))
    result = torch.full_like(group_ids, -2)
    for shift, label in enumerate(labels):
        rows = [row for row, other in enumerate(group_ids.tolist()) if other == label]
        for place, row in enumerate(rows):
            result[row] = (math.floor(Fraction(place * num_critics, len(rows))) + shift) % num_critics
    return result


def prompt_shards(group_ids: Tensor, num_critics: int) -> Tensor:
    """Deals whole groups in turn."""
    labels = list(dict.fromkeys(group_ids.tolist()))
    return torch.tensor([labels.index(label) % num_critics for label in group_ids.tolist()], dtype=torch.long)


def value_loss(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """Squared error, token by token."""
    result = torch.zeros_like(values)
    for position in _positions(response_mask):
        if response_mask[position]:
            result[position] = (float(values[position]) - float(returns[position])) ** 2
    return result


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip: float
) -> Tensor:
    """The larger of the squared errors of the value and of the clipped value, token by token."""
    result = torch.zeros_like(values)
    for position in _positions(response_mask):
        if response_mask[position]:
            value, old, target = (float(x[position]) for x in (values, old_values, returns))
            clipped = min(max(value, old - clip), old + clip)
            result[position] = max((value - target) ** 2, (clipped - target) ** 2)
    return result


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> float:
    """One minus the ratio of two population variances over the trained tokens."""
    targets, left = returns[response_mask].tolist(), (returns - values)[response_mask].tolist()
    if len(set(targets)) < 2:
        return 0.0
    return 1 - statistics.pvariance(left) / statistics.pvariance(targets)


def _positions(mask: Tensor) -> list[tuple[int, int]]:
    return [(row, step) for row in range(mask.shape[0]) for step in range(mask.shape[1])]
