"""Slow, obviously correct twins of the value sources' functions and their estimators: loops over numbers and text."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def optimal_value(scores: Tensor, group_ids: Tensor, beta: float) -> Tensor:
    """β log of the mean of exp(r/β) over the scored responses of the row's group; 0 where there is none."""
    result = torch.zeros_like(scores)
    for row, group_id in enumerate(group_ids.tolist()):
        group = [
            s for s, other in zip(scores.tolist(), group_ids.tolist(), strict=True) if other == group_id and s == s
        ]
        if group and math.isinf(beta):
            result[row] = math.fsum(group) / len(group)
        elif group:
            mean = math.fsum(math.exp((s - max(group)) / beta) for s in group) / len(group)
            result[row] = max(group) + beta * math.log(mean)
    return result


def beta_tracker_update(
    alpha: float, beta: float, score: float, divergence: float, half_life: float, rho_min: float, rho_max: float
) -> tuple[float, float]:
    """The moving-average form: v̂ + (r − v̂)/(ρN + 1), N' = ρN + 1."""
    rho = min(max(2.0 ** (-divergence / half_life), rho_min), rho_max)
    count = alpha + beta
    rate = alpha / count
    rate, count = rate + (score - rate) / (rho * count + 1), rho * count + 1
    return rate * count, (1 - rate) * count


def noise_weights(scores: Tensor, group_ids: Tensor, floor: float | None, power: float) -> Tensor:
    """One over the noise of the row's prompt, divided by the mean over the prompts that have a score."""
    groups: dict[int, list[float]] = {}
    for score, group in zip(scores.tolist(), group_ids.tolist(), strict=True):
        if score == score:
            groups.setdefault(group, []).append(score)
    everything = [score for group in groups.values() for score in group]
    inverse = {}
    for name, group in groups.items():
        mean = math.fsum(group) / len(group)
        variance = math.fsum((score - mean) ** 2 for score in group) / len(group) if len(set(group)) > 1 else 0.0
        span = max(everything) - min(everything)
        least = (span / (2 * math.sqrt(len(group)))) ** (2 * power) if floor is None else floor
        noise = max(variance**power, least)
        inverse[name] = 1 / noise if noise else 1.0
    pairs = zip(scores.tolist(), group_ids.tolist(), strict=True)
    numbers = [inverse[g] * len(inverse) / math.fsum(inverse.values()) if s == s else 0.0 for s, g in pairs]
    return torch.tensor(numbers, dtype=scores.dtype)


def leave_one_out_mean(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Mean score of the row's siblings, of the whole batch where it has none, its own where there is no other."""
    numbers, ids, result = scores.tolist(), group_ids.tolist(), torch.zeros_like(scores)
    for row in range(len(numbers)):
        others = [j for j in range(len(numbers)) if j != row and numbers[j] == numbers[j]]
        siblings = [j for j in others if ids[j] == ids[row]]
        chosen = siblings or others or [j for j in [row] if numbers[j] == numbers[j]]
        if chosen:
            result[row] = math.fsum(numbers[j] for j in chosen) / len(chosen)
    return result


def blend_coefficient(scores: Tensor, baselines: Tensor, values: Tensor, response_mask: Tensor, ridge: float) -> float:
    """Covariance of R − B with V − B around 0, over the second moment of V − B, which must not be 0."""
    products, squares, errors = [], [], []
    for row, mask in enumerate(response_mask.tolist()):
        score, base = scores[row].item(), baselines[row].item()
        for column in [t for t, trained in enumerate(mask) if trained and score == score]:
            gap = values[row, column].item() - base
            products.append((score - base) * gap)
            squares.append(gap**2)
            errors.append((score - base) ** 2)
    more = ridge * max(math.fsum(squares), math.fsum(errors))
    return math.fsum(products) / (math.fsum(squares) + more)


def tracker_advantages(scores: Tensor, baselines: Tensor) -> Tensor:
    """Score minus baseline, one response at a time; 0 for NaN."""
    pairs = zip(scores.tolist(), baselines.tolist(), strict=True)
    return torch.tensor([0.0 if s != s else s - b for s, b in pairs], dtype=scores.dtype)


def text_segments(pieces: Sequence[Sequence[str]], response_mask: Tensor, split: Callable[[str], list[str]]) -> Tensor:
    """Segment of every trained token: the part of the text that holds its first character; blank parts joined."""
    result = torch.zeros(response_mask.shape, dtype=torch.long)
    for row, texts in enumerate(pieces):
        part_of_character = [n for n, part in enumerate(_joined(split("".join(texts)))) for _ in part]
        seen: list[int] = []
        for column in range(len(texts)):
            place = len("".join(texts[:column]))
            ahead = part_of_character[place:] or part_of_character[-1:] or [0]  # nothing follows: the last part
            if response_mask[row, column]:
                seen += [ahead[0]] if ahead[0] not in seen else []
                result[row, column] = seen.index(ahead[0])
    return result


def lines(text: str) -> list[str]:
    """Parts of the text, each but the first with its newline in front."""
    first, *others = text.split("\n")
    return [first, *("\n" + other for other in others)]


def sentences(text: str) -> list[str]:
    """Parts of the text, character by character."""
    parts = [""]
    for place, character in enumerate(text):
        parts = [*parts, ""] if character == "\n" else parts
        parts[-1] += character
        if character in ".!?" and text[place + 1 : place + 2].isspace() and not _abbreviates(text, place):
            parts.append("")
    return parts


def _abbreviates(text: str, place: int) -> bool:
    """Whether the period there follows one or two letters, or a number of one or two digits that opens its line."""
    line = text[:place].split("\n")[-1]
    word = ""
    for character in reversed(line):
        if not (character.isalnum() or character == "_"):
            break
        word = character + word
    short = text[place] == "." and 1 <= len(word) <= 2
    return short and (word.isalpha() or (word.isdigit() and word == line))


def _joined(parts: list[str]) -> list[str]:
    """Parts without blank ones: each is put before the next that is not blank, at the end behind the last."""
    result, blank = [], ""
    for part in parts:
        if part.strip():
            result.append(blank + part)
            blank = ""
        else:
            blank += part
    if result:
        result[-1] += blank
    return result or [blank]


def fixed_token_segments(response_mask: Tensor, tokens: int) -> Tensor:
    """Counts the trained tokens of each row."""
    result = torch.zeros(response_mask.shape, dtype=torch.long)
    for row, mask in enumerate(response_mask.tolist()):
        for place, column in enumerate([t for t, trained in enumerate(mask) if trained]):
            result[row, column] = place // tokens
    return result


def segment_advantages(boundary_values: Tensor, scores: Tensor, segment_ids: Tensor, response_mask: Tensor) -> Tensor:
    """V̂(sᵢ₊₁) − V̂(sᵢ), with the score in place of a value behind the last segment, token by token."""
    result = torch.zeros(response_mask.shape, dtype=boundary_values.dtype)
    for row, mask in enumerate(response_mask.tolist()):
        tokens, score = [t for t, trained in enumerate(mask) if trained], scores[row].item()
        if not tokens or score != score:
            continue
        last = int(segment_ids[row, tokens[-1]])
        values = [*boundary_values[row, : last + 1].tolist(), score]
        for token in tokens:
            segment = int(segment_ids[row, token])
            result[row, token] = values[segment + 1] - values[segment]
    return result
