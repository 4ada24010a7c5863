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


def _trained(mask: Tensor, *tensors: Tensor) -> list[list[tuple[float, ...]]]:
    """For each row the numbers of its trained tokens, side by side."""
    rows = []
    for row in range(mask.shape[0]):
        trained = [t for t in range(mask.shape[1]) if mask[row, t]]
        rows.append([tuple(float(tensor[row, t]) for tensor in tensors) for t in trained])
    return rows


def loop_gspo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """The clipped objective of the geometric mean of a response's ratios, by cases."""
    losses = []
    for tokens in _trained(response_mask, log_probs, old_log_probs, advantages):
        product, advantage = 1.0, 0.0
        for new, old, a in tokens:
            product *= math.exp((new - old) / len(tokens))
            advantage += a / len(tokens)
        bounded = min(product, 1 + clip_high) if advantage > 0 else max(product, 1 - clip_low)
        losses.append(-advantage * bounded)
    return torch.tensor(losses, dtype=torch.float64)


def loop_gspo_token(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """The same with the advantage of each token."""
    result = torch.zeros(response_mask.shape, dtype=torch.float64)
    for row, tokens in enumerate(_trained(response_mask, log_probs, old_log_probs)):
        ratio = math.exp(sum(new - old for new, old in tokens) / max(len(tokens), 1))
        for t in range(response_mask.shape[1]):
            if response_mask[row, t]:
                a = float(advantages[row, t])
                result[row, t] = -a * (min(ratio, 1 + clip_high) if a > 0 else max(ratio, 1 - clip_low))
    return result


def loop_gmpo(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor, *, clip: float
) -> Tensor:
    """The geometric mean of ratios, each bounded on the side that the advantage asks for."""
    losses = []
    for tokens in _trained(response_mask, log_probs, old_log_probs, advantages):
        advantage = sum(a for _, _, a in tokens) / max(len(tokens), 1)
        product = 1.0
        for new, old, _ in tokens:
            ratio = math.exp(new - old)
            bounded = min(ratio, math.exp(clip)) if advantage >= 0 else max(ratio, math.exp(-clip))
            product *= bounded ** (1 / len(tokens))
        losses.append(-advantage * product)
    return torch.tensor(losses, dtype=torch.float64)


def loop_top_divergence(
    new: dict[int, float], old: dict[int, float], token: int, listed: list[int], *, divergence: str
) -> float:
    """Divergence between two distributions (token to probability) seen through a list, the token and the rest."""
    cells = sorted({*listed, token})
    p, q = ([of[cell] for cell in cells] for of in (new, old))
    pairs = [*zip(p, q, strict=True), (1 - sum(p), 1 - sum(q))]
    if divergence == "topk_tv":
        return sum(abs(x - y) for x, y in pairs) / 2
    return sum(max(y, 1e-12) * math.log(max(y, 1e-12) / max(x, 1e-12)) for x, y in pairs)


def loop_entropy_ratio_mask(
    entropies: Tensor, old_entropies: Tensor, response_mask: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Which tokens keep their gradient: 1 where the ratio of entropies lies inside the open interval."""

    def inside(new: float, old: float) -> float:
        return float(1 - clip_low < (new + 1e-8) / (old + 1e-8) < 1 + clip_high)

    return _tokens(response_mask, inside, entropies, old_entropies)
