"""From prompts as text or chats to left-padded token ids."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.data.task import Prompt
from rl4llm.models import Policy
from rl4llm.models.loading import context_length

_READ_BY_TOKENIZER = ("tools", "documents", "continue_final_message")


def encode_prompt(policy: Policy, prompt: Prompt) -> list[int]:
    """Encode a text as it stands, or a chat through the tokenizer's chat template with the options of the prompt."""
    ids: Any
    if isinstance(prompt, str):
        return policy.tokenizer(prompt)["input_ids"]
    if policy.tokenizer.chat_template is None:
        raise UsageError(
            "prompt is a chat, but the policy's tokenizer has no chat template; give prompts as plain text, or set "
            "--data.task.prompt.chat=false."
        )
    options = getattr(prompt, "options", {})
    _check_options(options, policy.tokenizer.chat_template)
    ids = policy.tokenizer.apply_chat_template(
        list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False, **options
    )
    return ids


def _check_options(options: Mapping[str, Any], template: Any) -> None:
    """Raise unless the chat template reads every option: it would pass over one with another name in silence."""
    unread = [name for name in options if name not in _READ_BY_TOKENIZER and name not in str(template)]
    if unread:
        raise UsageError(
            f"chat_options sets '{unread[0]}', which the policy's chat template does not read; correct the name or "
            "leave it out."
        )


def encode_prompts(
    policy: Policy, prompts: list[Prompt], max_response_tokens: int
) -> tuple[Int[Tensor, "draw prompt"], Bool[Tensor, "draw prompt"]]:
    """Encode prompts as left-padded ids and their mask; each must leave room for a whole response.

    Raises:
        UsageError: If a prompt has no token, or with the response exceeds the policy's context.
    """
    encoded = [encode_prompt(policy, prompt) for prompt in prompts]
    context = context_length(policy.model)
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise UsageError(f"prompt {prompt!r} has no tokens; every prompt needs at least one.")
        if context is not None and len(ids) + max_response_tokens > context:
            raise UsageError(
                f"prompt of {len(ids)} tokens ({str(prompt)[:40]!r}...) plus max_response_tokens={max_response_tokens} "
                f"exceeds the policy's context of {context}; shorten or drop it, or lower max_response_tokens."
            )
    width = max((len(ids) for ids in encoded), default=0)
    rows = [[policy.pad_id] * (width - len(ids)) + ids for ids in encoded]
    lengths = torch.tensor([len(ids) for ids in encoded], dtype=torch.long)
    padded = torch.tensor(rows, dtype=torch.long).reshape(len(rows), width)
    return padded, torch.arange(width) >= width - lengths[:, None]


def prompt_tokens(policy: Policy, prompt: Prompt) -> int:
    """Return the number of tokens of a prompt."""
    return len(encode_prompt(policy, prompt))


def prompt_limit(policy: Policy, max_response_tokens: int) -> int | None:
    """Return how many tokens of a prompt leave room for a whole response; None where the model names no context."""
    context = context_length(policy.model)
    return None if context is None else context - max_response_tokens
