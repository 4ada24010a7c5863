"""Over-long prompts are found before training: they are dropped with a count, or refused."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from rl4llm.checks import UsageError
from rl4llm.data.task import Example, Split

OverLong = Literal["drop", "refuse"]


def fitting_examples(examples: Sequence[Example], split: Split, module: Any, overlong: OverLong) -> Sequence[Example]:
    """Return the examples whose prompts leave room for a whole response.

    Args:
        examples: A list or tuple is measured whole. Of any other sequence, which may be generated on the fly, only the
            first example is measured.
        split: Which split the examples are; for messages.
        module: Offers `prompt_length(prompt) -> int` and `prompt_limit: int | None`, the number of tokens that the
            context leaves beside a whole response. Where it does not, or the limit is None, everything fits.
        overlong: What becomes of longer prompts of a list or tuple.

    Raises:
        UsageError: If a prompt has no tokens, if over-long prompts are to be refused, or if none fits.
    """
    limit, measure = getattr(module, "prompt_limit", None), getattr(module, "prompt_length", None)
    if limit is None or measure is None or not len(examples):
        return examples
    whole = isinstance(examples, list | tuple)
    lengths = [measure(example.prompt) for example in (examples if whole else [examples[0]])]
    if 0 in lengths:
        uid = examples[lengths.index(0)].uid
        raise UsageError(
            f"PromptData: the {split} prompt with uid {uid} has no tokens; every prompt needs at least one."
        )
    fitting = [example for example, length in zip(examples, lengths, strict=False) if length <= limit]
    count, longest = len(lengths) - len(fitting), max(lengths)
    if not count:
        return examples
    found = f"the policy's context leaves {limit:,} tokens beside max_response_tokens (the longest has {longest:,})"
    if limit < 1:
        raise UsageError(
            "PromptData: max_response_tokens leaves no room for a prompt in the policy's context; lower "
            f"--model.sampling.max_response_tokens by {longest - limit:,}."
        )
    if not whole:
        raise UsageError(f"PromptData: the first {split} prompt is too long: {found}; shorten the prompts.")
    if not fitting:
        raise UsageError(
            f"PromptData: all {len(examples):,} {split} prompts are too long: {found}; shorten them, or lower "
            "max_response_tokens."
        )
    if overlong == "refuse":
        raise UsageError(
            f"PromptData: {count:,} of {len(examples):,} {split} prompts are too long: {found}; shorten them, lower "
            "max_response_tokens, or set --data.overlong=drop."
        )
    rank_zero_warn(f"PromptData: {count:,} of {len(examples):,} {split} prompts are dropped as too long: {found}.")
    return fitting
