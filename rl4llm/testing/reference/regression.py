"""Slow loops for the regressions on scores, and small token trees on which their optima are known exactly."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _rows(mask: Tensor) -> list[list[int]]:
    """The trained positions of each row."""
    return [[t for t, trained in enumerate(row) if trained] for row in mask.tolist()]


def loop_optimal_advantage_regression(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    scores: Tensor,
    optimal_values: Tensor,
    response_mask: Tensor,
    *,
    beta: float,
) -> Tensor:
    """(β ℓ(y) − (r − V*))², one response after the other."""
    losses = torch.zeros(len(scores), dtype=torch.float64)
    for row, positions in enumerate(_rows(response_mask)):
        if not positions or math.isnan(scores[row]):
            continue
        log_ratio = 0.0
        for t in positions:
            log_ratio += float(log_probs[row, t]) - float(ref_log_probs[row, t])
        losses[row] = (beta * log_ratio - (float(scores[row]) - float(optimal_values[row]))) ** 2
    return losses


def loop_bellman_residual(
    logits: Tensor, logsumexp: Tensor, ref_log_probs: Tensor, scores: Tensor, response_mask: Tensor, *, beta: float
) -> Tensor:
    """(Σₜ Q(sₜ, yₜ) − R(sₜ, yₜ) − V(sₜ₊₁))², Q the logit of the token, R = log π_ref (+ r/β at the end), V(end) = 0."""
    losses = torch.zeros(len(scores), dtype=torch.float64)
    for row, positions in enumerate(_rows(response_mask)):
        if not positions or math.isnan(scores[row]):
            continue
        residual = 0.0
        for t, following in itertools.zip_longest(positions, positions[1:]):
            reward = float(ref_log_probs[row, t]) + (float(scores[row]) / beta if following is None else 0.0)
            value = 0.0 if following is None else float(logsumexp[row, following])
            residual += float(logits[row, t]) - reward - value
        losses[row] = residual**2
    return losses


def loop_rebel_pairs(
    log_probs: Tensor,
    old_log_probs: Tensor,
    scores: Tensor,
    group_ids: Tensor,
    response_mask: Tensor,
    *,
    eta: float,
) -> dict[int, Tensor]:
    """For each group Σ over pairs of ((difference of log-ratios)/η − difference of scores)², with its graph."""
    totals = {group: torch.zeros((), dtype=torch.float64) for group in group_ids.tolist()}
    rows = _rows(response_mask)
    counted = [row for row in range(len(scores)) if rows[row] and not math.isnan(scores[row])]
    for i, j in itertools.combinations(counted, 2):
        if group_ids[i] != group_ids[j]:
            continue
        first, second = (sum(log_probs[row, t] - old_log_probs[row, t].item() for t in rows[row]) for row in (i, j))
        error = (first - second) / eta - (scores[i].item() - scores[j].item())
        totals[int(group_ids[i])] = totals[int(group_ids[i])] + error**2
    return totals


@dataclass(frozen=True, eq=False)
class TokenTree:
    """All responses over a small vocabulary, token 0 ending one, with at most `length` tokens.

    A policy on the tree is a table of logits, state × vocabulary; state 0 is the prompt.

    Args:
        vocabulary: Number of tokens.
        length: Most tokens of a response.
    """

    vocabulary: int = 3
    length: int = 3

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The states: what has been said so far, without token 0."""
        lengths = range(self.length)
        return [p for n in lengths for p in itertools.product(range(1, self.vocabulary), repeat=n)]

    @property
    def responses(self) -> list[tuple[int, ...]]:
        """Every response."""
        ended = [(*prefix, 0) for prefix in self.prefixes]
        return ended + list(itertools.product(range(1, self.vocabulary), repeat=self.length))

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """States, token ids and mask of all responses, response × length."""
        states, ids = (torch.zeros(len(self.responses), self.length, dtype=torch.long) for _ in range(2))
        mask = torch.zeros(len(self.responses), self.length, dtype=torch.bool)
        index = {prefix: n for n, prefix in enumerate(self.prefixes)}
        for row, response in enumerate(self.responses):
            for t, token in enumerate(response):
                states[row, t], ids[row, t], mask[row, t] = index[response[:t]], token, True
        return states, ids, mask

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probs of the tokens of all responses under a table of logits."""
        states, ids, _ = self.tokens()
        return logits.log_softmax(-1)[states, ids]

    def soft_optimal_q(self, ref_logits: Tensor, scores: Tensor, *, beta: float) -> Tensor:
        """Q*(s, a) = log π_ref(a|s) + (r/β at the end, else log Σ exp Q* of the next state), from the leaves up."""
        reference, q = ref_logits.log_softmax(-1), torch.zeros_like(ref_logits)
        index = {prefix: n for n, prefix in enumerate(self.prefixes)}
        score = dict(zip(self.responses, scores.tolist(), strict=True))
        for prefix in reversed(self.prefixes):
            for token in range(self.vocabulary):
                following = (*prefix, token)
                ahead = score[following] / beta if following in score else q[index[following]].logsumexp(0).item()
                q[index[prefix], token] = reference[index[prefix], token] + ahead
        return q
