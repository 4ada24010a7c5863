"""Errors of a critic on the prompts of a batch, and the prompts on which it is good enough."""

from math import inf

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.checks import (
    check_at_least,
    check_device,
    check_given,
    check_group_tensors,
    check_interval,
    check_mask,
    check_response_tensors,
    check_token_tensors,
)
from rl4llm.groups import group_count, group_mean
from rl4llm.masked import at_least_float32, keep


@torch.no_grad()
def prompt_errors(
    values: Float[Tensor, "batch time"],
    scores: Num[Tensor, " batch"],
    truncated: Bool[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    valid: int = 2,
) -> Float[Tensor, " batch"]:
    """Compute the error of a critic's value of each prompt against the mean score of the prompt's responses.

        eₓ = |V(s₀) − mean of Rᵢ over the valid responses of x|          s₀ = the prompt, before the first token

    A response is valid where it has trained tokens, could be scored and ended by itself. V(s₀) is the value at the
    first trained token. All responses of a prompt share that state; where their values differ (by rounding), eₓ takes
    the mean over the valid ones. A prompt with too few valid responses has no error.

    Args:
        values: V(sₜ), t in [0, T), from before they learned from these scores. Read at the first trained token only.
        scores: Rᵢ, one number per response; NaN where it could not be scored.
        truncated: True where the length limit came before the end.
        group_ids: Which prompt a response answers; any order, ragged.
        response_mask: True at trained tokens.
        valid: Valid responses that a prompt needs, at least 1.

    Returns:
        eₓ of its prompt for every response, in float32 or wider, without graph; NaN where the prompt has none.

    Raises:
        UsageError: If shapes differ, a mask is not boolean, `group_ids` does not hold integers, or `valid` is below 1.

    Example:
        >>> values, mask = torch.tensor([[0.75], [0.75], [0.5]]), torch.ones(3, 1, dtype=torch.bool)
        >>> prompt_errors(values, torch.tensor([1.0, 0.0, 1.0]), ~mask[:, 0], torch.tensor([4, 4, 7]), mask)
        tensor([0.2500, 0.2500,    nan])

    References:
        Wen et al., 2026 (AC2). arXiv:2609.39247, as in a public fork of the authors' code, where `valid` is 8 of 16.
    """
    check_at_least("prompt_errors", 1, valid=valid)
    check_mask("prompt_errors", truncated=truncated)
    check_group_tensors("prompt_errors", group_ids, scores=scores, truncated=truncated)
    check_token_tensors("prompt_errors", response_mask, values=values)
    check_response_tensors("prompt_errors", response_mask, group_ids=group_ids)
    wide = torch.promote_types(at_least_float32(values).dtype, at_least_float32(scores).dtype)
    first = response_mask & (response_mask.cumsum(-1) == 1)
    counted = response_mask.any(-1) & ~scores.isnan() & ~truncated
    gaps = keep(values.to(wide), first).sum(-1) - scores.to(wide)
    errors = group_mean(gaps, group_ids, counted).abs()
    return keep(errors, group_count(group_ids, counted) >= valid, torch.nan)


@torch.no_grad()
def proved_prompts(
    errors: Float[Tensor, " prompt"],
    recent_errors: Float[Tensor, " error"],
    *,
    step: float = 0.2,
    prompt: float = 0.18,
) -> Bool[Tensor, " prompt"]:
    """Return the prompts on which a critic is good enough: its mean error is small, and so is its error on the prompt.

        readyₓ = mean of recent errors < step  and  eₓ < prompt

    Args:
        errors: eₓ of the prompts that were measured just now; NaN is never small enough.
        recent_errors: Errors of all prompts that were measured lately, these included; none of them is small enough
            where there are none.
        step: What the mean must stay below; 0 admits no prompt, ∞ any mean.
        prompt: What the error of the prompt itself must stay below; 0 admits no prompt, ∞ any error.

    Returns:
        One truth value per prompt.

    Raises:
        UsageError: If a bound is below 0 or no number.

    Example:
        >>> proved_prompts(torch.tensor([0.1, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.1, 0.2]))
        tensor([ True, False,  True])

    References:
        Wen et al., 2026 (AC2). arXiv:2609.39247, as in a public fork of the authors' code.
    """
    check_bounds("proved_prompts", step, prompt)
    check_given("proved_prompts", errors=errors, recent_errors=recent_errors)
    check_device("proved_prompts", errors=errors, recent_errors=recent_errors)
    return (errors < prompt) & (at_least_float32(recent_errors).mean() < step)


def check_bounds(by: str, step: float, prompt: float) -> None:
    """Raise unless both bounds are at least 0."""
    check_interval(by, 0.0, inf, step=step, prompt=prompt)
