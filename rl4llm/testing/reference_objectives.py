"""Slow loops that say the objectives, aggregators and regularizers one token at a time, in Python floats."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _tokens(mask: Tensor, of_token: Callable[..., float], *tensors: Tensor) -> Tensor:
    """The function at every position where the mask is True, 0 elsewhere."""
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[row, t]:
                result[row, t] = of_token(*(float(tensor[row, t]) for tensor in tensors))
    return result


def loop_token_log_probs(
    logits: Tensor, ids: Tensor, *, temperature: float = 1.0
) -> tuple[list[float], list[float], list[float]]:
    """Log-prob, entropy and log-normalizer of each row of positions × vocab logits."""
    log_probs, entropies, normalizers = [], [], []
    for row, token in zip(logits.tolist(), ids.tolist(), strict=True):
        tempered = [x / temperature for x in row]
        largest = max(tempered)
        normalizer = largest + math.log(sum(math.exp(x - largest) for x in tempered))
        probs = [math.exp(x - normalizer) for x in tempered]
        log_probs.append(tempered[token] - normalizer)
        entropies.append(-sum(p * math.log(p) for p in probs if p > 0))
        normalizers.append(normalizer)
    return log_probs, entropies, normalizers


def loop_reinforce(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Minus advantage times log-prob."""
    return _tokens(response_mask, lambda new, advantage: -advantage * new, log_probs, advantages)


def loop_importance_weighted(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor
) -> Tensor:
    """Minus ratio times advantage."""

    def loss(new: float, old: float, advantage: float) -> float:
        return -math.exp(new - old) * advantage

    return _tokens(response_mask, loss, log_probs, old_log_probs, advantages)


def loop_ppo_clip(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Tensor:
    """The clipped objective by cases: which of the bounds the token has passed."""

    def loss(new: float, old: float, advantage: float) -> float:
        ratio = math.exp(new - old)
        if advantage > 0:
            return -advantage * min(ratio, 1 + clip_high)
        worst = math.inf if dual_clip is None else dual_clip
        return -advantage * min(max(ratio, 1 - clip_low), worst)

    return _tokens(response_mask, loss, log_probs, old_log_probs, advantages)


def loop_kl(log_probs: Tensor, ref_log_probs: Tensor, response_mask: Tensor, *, estimator: str) -> Tensor:
    """The KL estimates k1, k2 and k3, from the ratio of the probabilities."""

    def estimate(new: float, reference: float) -> float:
        ratio = math.exp(reference) / math.exp(new)
        return {"k1": -math.log(ratio), "k2": math.log(ratio) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}[estimator]

    return _tokens(response_mask, estimate, log_probs, ref_log_probs)


def loop_aggregate(per_token: Tensor, mask: Tensor, *, mode: str, max_tokens: int = 1) -> float:
    """The aggregates by name: token_mean, sequence_mean, sequence_sum, constant_norm."""
    kept = [[x for x, m in zip(*row, strict=True) if m] for row in zip(per_token.tolist(), mask.tolist(), strict=True)]
    kept = [row for row in kept if row]
    if not kept:
        return 0.0
    if mode == "token_mean":
        return sum(map(sum, kept)) / sum(map(len, kept))
    divisors = {"sequence_mean": [len(row) for row in kept], "sequence_sum": [1] * len(kept)}
    lengths = divisors.get(mode, [max_tokens] * len(kept))
    return sum(sum(row) / length for row, length in zip(kept, lengths, strict=True)) / len(kept)
