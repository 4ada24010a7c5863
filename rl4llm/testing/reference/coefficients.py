"""What each objective multiplies the score function ∇log π_θ(yₜ) of a token with: minus its gradient, case by case."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.testing.reference.objectives import loop_top_divergence


class Token(NamedTuple):
    """A trained token: its log-probs, its advantage, the entropies at its state, its place, and all that is known."""

    new: float
    rollout: float
    old: float
    advantage: float
    entropy: float
    old_entropy: float
    place: tuple[int, int]
    policy: Mapping[str, Tensor]
    batch: RolloutBatch


OfResponse = Callable[[Any, Sequence[Token]], Sequence[float]]


def of_tokens(of_token: Callable[[Any, Token], float]) -> OfResponse:
    """An objective that looks at one token at a time."""

    def whole(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
        return [of_token(part, token) for token in tokens]

    return whole


def coefficients(of_response: OfResponse, part: Any, policy: Mapping[str, Tensor], batch: RolloutBatch) -> Tensor:
    """The coefficient of every token, given what the policy says of it."""
    result = torch.zeros(batch.response_mask.shape, dtype=torch.float64)
    advantages, old_entropies = batch.require("advantages", "entropies", by="coefficients")
    log_probs = [policy["log_probs"], batch.rollout_log_probs, batch.old_log_probs]
    given = [*log_probs, advantages, policy["entropies"], old_entropies]
    for row, mask in enumerate(batch.response_mask.tolist()):
        places = [(row, t) for t, trained in enumerate(mask) if trained]
        numbers = [[float(x[place]) for x in given] for place in places]
        tokens = [Token(*own, place, policy, batch) for own, place in zip(numbers, places, strict=True)]  # type: ignore
        if tokens:
            for place, number in zip(places, of_response(part, tokens), strict=True):
                result[place] = number
    return result


def ratio(token: Token) -> float:
    """π_θ/π_old of the token."""
    return math.exp(token.new) / math.exp(token.old)


def clip(x: float, low: float, high: float) -> float:
    """The nearest number in [low, high]."""
    return min(max(x, low), high)


def reinforce(part: Any, token: Token) -> float:
    """A."""
    return token.advantage


def importance_weighted(part: Any, token: Token) -> float:
    """R A."""
    return ratio(token) * token.advantage


def masked_importance_weighted(part: Any, token: Token) -> float:
    """ρ A where ρ lies inside the open interval."""
    r = math.exp(token.new - token.rollout)
    return r * token.advantage if 1 - part.clip_low < r < 1 + part.clip_high else 0.0


def ppo_clip(part: Any, token: Token) -> float:
    """R A, and 0 where the ratio has left the interval in the direction that the advantage asks for."""
    r, a = ratio(token), token.advantage
    gone = (a > 0 and r > 1 + part.clip_high) or (a < 0 and r < 1 - part.clip_low)
    gone = gone or (part.dual_clip is not None and a < 0 and r > part.dual_clip)
    return 0.0 if gone else r * a


def cispo(part: Any, token: Token) -> float:
    """clip(r) A."""
    return clip(ratio(token), 1 - part.clip_low, 1 + part.clip_high) * token.advantage


def sapo(part: Any, token: Token) -> float:
    """4 σ(1 − σ) r A."""
    tau = part.tau_positive if token.advantage > 0 else part.tau_negative
    gate = 1 / (1 + math.exp(min(-tau * (ratio(token) - 1), 700.0)))
    return 4 * gate * (1 - gate) * ratio(token) * token.advantage


def sols(part: Any, token: Token) -> float:
    """ρ A for good tokens, and for bad ones near the policy that sampled them."""
    r = math.exp(token.new - token.rollout)
    return r * token.advantage if token.advantage > 0 or abs(r - 1) <= part.clip else 0.0


def ratio_variance(part: Any, token: Token) -> float:
    """R (A − 2λ(r − 1))."""
    r = ratio(token)
    return r * (token.advantage - 2 * part.multiplier * (r - 1))


def dppo(part: Any, token: Token) -> float:
    """min(ρ, cap) A while the divergence is within its threshold or the token moves back."""
    anchor = token.rollout if part.anchor == "rollout" else token.old
    up, a, distance = token.new - anchor, token.advantage, divergence(part.divergence, token, anchor)
    gone = (a > 0 and up > 0 and distance > part.delta_high) or (a < 0 and up < 0 and distance > part.delta_low)
    weight = math.exp(token.new - token.rollout)
    return 0.0 if gone else a * (weight if part.weight_cap is None else min(weight, part.weight_cap))


def divergence(name: str, token: Token, anchor: float) -> float:
    """How far the policy has moved at a state, seen through the sampled token or through a list."""
    new, old = math.exp(token.new), math.exp(anchor)
    if name == "tv":
        return abs(new - old)
    if name == "kl":
        other_new, other_old = -math.expm1(token.new), -math.expm1(anchor)
        return old * (anchor - token.new) + other_old * math.log(other_old / other_new)
    ids, top = token.batch.require("top_ids", "top_log_probs", by="divergence")
    listed, sampled = ids[token.place].tolist(), int(token.batch.response_ids[token.place])
    p, q = ({i: math.exp(float(x)) for i, x in zip(listed, of[token.place], strict=True)} for of in (_top(token), top))
    return loop_top_divergence({**p, sampled: new}, {**q, sampled: old}, sampled, listed, divergence=name)


def _top(token: Token) -> Tensor:
    return token.policy["top_log_probs"]


def entropy_ratio(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """That of the base where the ratio of entropies is inside the open interval."""
    inside = [1 - part.clip_low < (t.entropy + 1e-8) / (t.old_entropy + 1e-8) < 1 + part.clip_high for t in tokens]
    base = COEFFICIENTS[type(part.base)](part.base, tokens)
    return [number if kept else 0.0 for number, kept in zip(base, inside, strict=True)]


def min_prefix_ratio(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """clip(r × the smallest ratio before) A."""
    result, smallest = [], math.inf
    for token in tokens:
        prefix = 1.0 if smallest == math.inf else smallest
        prefix = min(prefix, 1.0) if part.cap_prefix_at_one else prefix
        result.append(clip(prefix * ratio(token), 1 - part.clip_low, 1 + part.clip_high) * token.advantage)
        smallest = min(smallest, ratio(token))
    return result


def topr(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """A for good tokens, at most A times the ratio for bad ones."""
    whole = math.prod(ratio(token) for token in tokens)
    weights = [whole if part.whole_response else ratio(token) for token in tokens]
    return [t.advantage * (1.0 if t.advantage > 0 else min(w, 1.0)) for t, w in zip(tokens, weights, strict=True)]


def gspo(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """A s/|y|, and 0 where s has left the interval in the direction that A asks for."""
    s, a = _geometric_mean(tokens), sum(token.advantage for token in tokens) / len(tokens)
    gone = (a > 0 and s > 1 + part.clip_high) or (a < 0 and s < 1 - part.clip_low)
    return [0.0 if gone else a * s / len(tokens)] * len(tokens)


def gspo_token(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """Aₜ s, and 0 where s has left the interval in the direction that Aₜ asks for."""
    s = _geometric_mean(tokens)
    gone = [(t.advantage > 0 and s > 1 + part.clip_high) or (t.advantage < 0 and s < 1 - part.clip_low) for t in tokens]
    return [0.0 if left else token.advantage * s for token, left in zip(tokens, gone, strict=True)]


def gmpo(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """A ϱ/|y| with ϱ the geometric mean of bounded ratios, and 0 for the tokens that were bounded."""
    a = sum(token.advantage for token in tokens) / len(tokens)
    moved = [token.new - token.old for token in tokens]
    bounded = [min(d, part.clip) if a >= 0 else max(d, -part.clip) for d in moved]
    mean = math.exp(sum(bounded) / len(tokens))
    return [a * mean / len(tokens) if d == b else 0.0 for d, b in zip(moved, bounded, strict=True)]


def _geometric_mean(tokens: Sequence[Token]) -> float:
    return math.exp(sum(token.new - token.old for token in tokens) / len(tokens))


def optimal_advantage(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """−2β (β ℓ(y) − (r − V*))."""
    batch, first = tokens[0].batch, tokens[0].place
    reference, values = batch.require("ref_log_probs", "values", by="optimal_advantage")
    residual = part.beta * _log_ratio(tokens, reference) - (_outcome(batch, first[0]) - float(values[first]))
    return _same(tokens, -2 * part.beta * residual)


def bellman_residual(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """−2δ."""
    batch, first = tokens[0].batch, tokens[0].place
    reference, normalizers = batch.require("ref_log_probs", "ref_logsumexp", by="bellman_residual")
    value = float(tokens[0].policy["logsumexp"][first]) - (float(normalizers[first]) if part.calibrated else 0.0)
    return _same(tokens, -2 * (value + _log_ratio(tokens, reference) - _outcome(batch, first[0]) / part.beta))


def rebel(part: Any, tokens: Sequence[Token]) -> Sequence[float]:
    """−(2/η) Σⱼ (aᵢ − aⱼ) over the siblings."""
    batch, row = tokens[0].batch, tokens[0].place[0]
    log_ratios, gaps = (tokens[0].policy["log_probs"] - batch.old_log_probs).tolist(), {}
    for other, mask in enumerate(batch.response_mask.tolist()):
        moved = [number for number, trained in zip(log_ratios[other], mask, strict=True) if trained]
        gap = sum(moved) / part.eta - _outcome(batch, other)
        if moved and batch.group_ids[other] == batch.group_ids[row] and not math.isnan(gap):
            gaps[other] = gap
    return _same(tokens, -2 / part.eta * sum(gaps.get(row, math.nan) - gap for gap in gaps.values()))


def _log_ratio(tokens: Sequence[Token], reference: Tensor) -> float:
    return sum(token.new - float(reference[token.place]) for token in tokens)


def _outcome(batch: RolloutBatch, row: int) -> float:
    """The score and all shaping, which is the sum of the rewards; NaN where it could not be scored."""
    total = sum(float(r) for r, trained in zip(batch.rewards[row], batch.response_mask[row], strict=True) if trained)
    return total if batch.scores[row] == batch.scores[row] else math.nan


def _same(tokens: Sequence[Token], number: float) -> Sequence[float]:
    return [0.0 if math.isnan(number) else number] * len(tokens)


COEFFICIENTS: dict[type, OfResponse] = {}  # filled by rl4llm.testing.reference.oracles
