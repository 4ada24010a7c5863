"""Slow loops, in Python numbers: corrections, covariance gates, the charge for length, and what replay keeps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _rows(mask: Tensor, *tensors: Tensor) -> list[list[tuple[float, ...]]]:
    """The trained tokens of each row, as tuples of the tensors' numbers."""
    return [
        [tuple(float(x[row, t]) for x in tensors) for t in range(mask.shape[1]) if mask[row, t]]
        for row in range(mask.shape[0])
    ]


def _spread(mask: Tensor, rows: list[list[float]]) -> Tensor:
    """Numbers of the trained tokens, back in their places; 0 elsewhere."""
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for row, numbers in enumerate(rows):
        left = list(numbers)
        for t in range(mask.shape[1]):
            if mask[row, t]:
                result[row, t] = left.pop(0)
    return result


def loop_truncated_importance(old: Tensor, rollout: Tensor, response_mask: Tensor, *, cap: float, level: str) -> Tensor:
    """The weight of each token, or their product, at most the cap."""
    weights = [[math.exp(a) / math.exp(b) for a, b in row] for row in _rows(response_mask, old, rollout)]
    if level == "response":
        weights = [[math.prod(row)] * len(row) for row in weights]
    return _spread(response_mask, [[min(w, cap) for w in row] for row in weights])


def loop_masked_importance(
    old: Tensor, rollout: Tensor, response_mask: Tensor, *, low: float, high: float, level: str
) -> Tensor:
    """The weight of each token within the bounds; or that of the response, a product or geometric mean, likewise."""
    weights = [[math.exp(a) / math.exp(b) for a, b in row] for row in _rows(response_mask, old, rollout)]
    if level == "token":
        return _spread(response_mask, [[w if low <= w <= high else 0.0 for w in row] for row in weights])
    products = [math.prod(row) ** (1 / len(row) if level == "mean" and row else 1.0) for row in weights]
    kept = [[p if low <= p <= high else 0.0] * len(row) for p, row in zip(products, weights, strict=True)]
    return _spread(response_mask, kept)


def loop_covariance(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Product of the two deviations from the means of all trained tokens."""
    rows = _rows(response_mask, log_probs, advantages)
    pairs = [pair for row in rows for pair in row]
    count = max(len(pairs), 1)
    mean_log_prob, mean_advantage = sum(p for p, _ in pairs) / count, sum(a for _, a in pairs) / count
    return _spread(response_mask, [[(a - mean_advantage) * (p - mean_log_prob) for p, a in row] for row in rows])


def loop_overlong_penalty(lengths: Tensor, *, max_tokens: int, cache_tokens: int) -> list[float]:
    """The charge by cases."""
    charges = []
    for length in lengths.tolist():
        if length <= max_tokens - cache_tokens:
            charges.append(0.0)
        elif length <= max_tokens:
            charges.append((max_tokens - cache_tokens - length) / cache_tokens)
        else:
            charges.append(-1.0)
    return charges


def loop_fifo(added: Sequence[Sequence[Sequence[int]]], *, capacity: int, max_age: int | None) -> list[list[int]]:
    """Which groups of rows are left, oldest first, after adding batches of groups one after another."""
    store: list[tuple[int, list[int]]] = []
    for step, groups in enumerate(added):
        store += [(step, list(group)) for group in groups]
        store = [(born, group) for born, group in store if max_age is None or step - born < max_age]
        while sum(len(group) for _, group in store) > capacity:
            store.pop(0)
    return [group for _, group in store]


def loop_success(added: Sequence[Sequence[tuple[int, int, float]]], *, per_prompt: int) -> list[int]:
    """Which rows (uid, row, score) are left, oldest first, after adding batches one after another."""
    rows = [row for batch in added for row in batch if row[2] > 0]
    return [
        row for place, (uid, row, _) in enumerate(rows) if sum(other == uid for other, *_ in rows[place:]) <= per_prompt
    ]
