"""Slow references: one response and one token at a time, in plain Python, as the papers write them.

They share no code with what they check, take float64 tensors, and read nothing where the mask is False.
"""

import math

import torch
from torch import Tensor


def reverse_linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """xₜ = aₜ xₜ₊₁ + bₜ from the last column to the first, x_T = 0; `a` in the shape of `b`."""
    x = torch.zeros(*b.shape[:-1], b.shape[-1] + 1, dtype=b.dtype)
    for t in reversed(range(b.shape[-1])):
        x[..., t] = a[..., t] * x[..., t + 1] + b[..., t]
    return x[..., :-1]


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float, lam_returns: float
) -> tuple[Tensor, Tensor]:
    """Aₜ = Σₖ (γλ)ᵏ δₜ₊ₖ and Rₜ = Aₜ(λ_returns) + V(sₜ), each row as the list of its trained tokens."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for row, mask in enumerate(response_mask.tolist()):
        tokens = [t for t, trained in enumerate(mask) if trained]
        value = [values[row, t].item() for t in tokens] + [0.0]
        delta = [rewards[row, t].item() + gamma * value[i + 1] - value[i] for i, t in enumerate(tokens)]
        for i, t in enumerate(tokens):
            errors = list(enumerate(delta[i:]))
            advantages[row, t] = sum((gamma * lam) ** k * error for k, error in errors)
            returns[row, t] = sum((gamma * lam_returns) ** k * error for k, error in errors) + value[i]
    return advantages, returns


def length_adaptive_gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, alpha: float, lam_returns: float
) -> tuple[Tensor, Tensor]:
    """`gae` row by row with λ = 1 − 1/(αl), at least 0."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for row in range(len(rewards)):
        one = slice(row, row + 1)
        length = int(response_mask[row].sum())
        lam = max(0.0, 1 - 1 / (alpha * length)) if length else 0.0
        advantages[one], returns[one] = gae(rewards[one], values[one], response_mask[one], gamma, lam, lam_returns)
    return advantages, returns


def discounted_returns(rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """Gₜ = Σₖ γᵏ rₜ₊ₖ, each row as the list of its trained tokens."""
    returns = torch.zeros_like(rewards)
    for row, mask in enumerate(response_mask.tolist()):
        tokens = [t for t, trained in enumerate(mask) if trained]
        for i, t in enumerate(tokens):
            returns[row, t] = sum(gamma**k * rewards[row, later].item() for k, later in enumerate(tokens[i:]))
    return returns


def group_relative(scores: Tensor, group_ids: Tensor, normalize_std: bool, unbiased: bool = True) -> Tensor:
    """(rᵢ − r̄)/s, or rᵢ − r̄, one response at a time; 0 for NaN and for groups whose scores are all equal."""
    advantages = torch.zeros_like(scores)
    ids, numbers = group_ids.tolist(), scores.tolist()
    for i, score in enumerate(numbers):
        group = [other for other, group_id in zip(numbers, ids, strict=True) if group_id == ids[i] and other == other]
        if score != score or len(set(group)) < 2:
            continue
        mean = math.fsum(group) / len(group)
        variance = math.fsum((other - mean) ** 2 for other in group) / (len(group) - int(unbiased))
        advantages[i] = (score - mean) / math.sqrt(variance) if normalize_std else score - mean
    return advantages


def leave_one_out(scores: Tensor, group_ids: Tensor) -> Tensor:
    """rᵢ minus the mean of the other scored responses of its group, one response at a time."""
    advantages = torch.zeros_like(scores)
    ids, numbers = group_ids.tolist(), scores.tolist()
    for i, score in enumerate(numbers):
        others = [numbers[j] for j in range(len(ids)) if j != i and ids[j] == ids[i] and numbers[j] == numbers[j]]
        if score == score and others:
            advantages[i] = score - math.fsum(others) / len(others)
    return advantages


def whiten(x: Tensor, mask: Tensor, level: str, group_ids: Tensor, unbiased: bool = True) -> Tensor:
    """(x − x̄)/s with x̄ and s over tokens, over response means, or over the response means of the row's group."""
    whitened = torch.zeros_like(x)
    kept = [
        [number for number, counts in zip(row, m, strict=True) if counts]
        for row, m in zip(x.tolist(), mask.tolist(), strict=True)
    ]
    ids = group_ids.tolist()
    for i, row in enumerate(kept):
        if level == "token":
            sample = [number for other in kept for number in other]
        else:
            peers = [other for j, other in enumerate(kept) if other and (level == "response" or ids[j] == ids[i])]
            sample = [other[0] if len(set(other)) == 1 else math.fsum(other) / len(other) for other in peers]
        if not row or max(sample) - min(sample) <= 1e-14 * max(map(abs, sample)):  # equal up to rounding
            continue
        mean = math.fsum(sample) / len(sample)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in sample) / (len(sample) - int(unbiased)))
        whitened[i, mask[i]] = torch.tensor([(number - mean) / std for number in row], dtype=x.dtype)
    return whitened
