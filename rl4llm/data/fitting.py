"""Over-long prompts: found before training, then dropped with a count or refused."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from rl4llm.checks import UsageError
from rl4llm.data.task import Example, Split
from rl4llm.progress import progress

_CHARACTERS = 100_000  # of a longer prompt that cannot fit, only the beginning is measured

OverLong = Literal["drop", "refuse"]


def fitting_examples(examples: Sequence[Example], split: Split, module: Any, overlong: OverLong) -> Sequence[Example]:
    """Return the examples whose prompts leave room for a whole response.

    Args:
        examples: A list or tuple is measured whole. Of any other sequence, which may be generated on the fly, only the
            first example is measured.
        split: Which split the examples are; for messages.
        module: Offers `prompt_length(prompt) -> int` and `prompt_limit: int | None`, the number of tokens that the
            context leaves beside a whole response. Where it does not, or the limit is None, everything fits. What it
            may offer as `check_context(tokens)` is told the longest prompt that fits.
        overlong: What becomes of longer prompts of a list or tuple.

    Raises:
        UsageError: If a prompt has no tokens, if over-long prompts are to be refused, or if none fits.
    """
    limit, measure = getattr(module, "prompt_limit", None), getattr(module, "prompt_length", None)
    told = hasattr(module, "check_context")
    if measure is None or not len(examples) or (limit is None and not told):
        return examples
    whole = isinstance(examples, list | tuple)
    measured = examples if whole else [examples[0]]
    with progress.phase(f"counting the tokens of the {split} prompts", len(measured), "prompts", quick=True):
        lengths = [_length(example.prompt, measure, limit) for example in progress.over(measured)]
    if 0 in lengths:
        uid = examples[lengths.index(0)].uid
        raise UsageError(
            f"PromptData: the {split} prompt with uid {uid} has no tokens; every prompt needs at least one."
        )
    fits = [limit is None or length <= limit for length in lengths]
    if told and any(fits):
        module.check_context(max(length for length, fit in zip(lengths, fits, strict=True) if fit))
    if limit is None or all(fits):
        return examples
    if not whole or not any(fits) or overlong == "refuse" or limit < 1:
        raise UsageError(f"PromptData: {_refusal(lengths, fits, split, limit, whole)}")
    many = f"{fits.count(False):,} of {len(fits):,} {split} prompts"
    rank_zero_warn(f"PromptData: {many} are dropped as too long: {_room(lengths, limit)}.")
    return [example for example, fit in zip(examples, fits, strict=True) if fit]


def _refusal(lengths: Sequence[int], fits: Sequence[bool], split: Split, limit: int, whole: bool) -> str:
    room = _room(lengths, limit)
    if limit < 1:
        return (
            "max_response_tokens leaves no room for a prompt in the policy's context; lower "
            f"--model.sampling.max_response_tokens by {max(lengths) - limit:,}."
        )
    if not whole:
        return f"the first {split} prompt is too long: {room}; shorten the prompts."
    if not any(fits):
        return f"all {len(fits):,} {split} prompts are too long: {room}; shorten them, or lower max_response_tokens."
    return (
        f"{fits.count(False):,} of {len(fits):,} {split} prompts are too long: {room}; shorten them, lower "
        "max_response_tokens, or set --data.overlong=drop."
    )


def _room(lengths: Sequence[int], limit: int) -> str:
    more = " or more" if max(lengths) >= _CHARACTERS else ""
    return (
        f"the policy's context leaves {limit:,} tokens beside max_response_tokens (the longest has "
        f"{max(lengths):,}{more})"
    )


def _length(prompt: Any, measure: Any, limit: int | None) -> int:
    """Tokens of a prompt, or of its beginning if that alone is too long: a text of megabytes takes minutes."""
    if limit is not None and isinstance(prompt, str) and len(prompt) > _most_characters(limit):
        beginning = measure(prompt[: _most_characters(limit)])
        if beginning > limit:
            return beginning
    return measure(prompt)


def _most_characters(limit: int) -> int:
    return max(_CHARACTERS, 100 * limit)
