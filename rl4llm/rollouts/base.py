"""The family of rollout engines: token ids in, responses with their log-probs out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts.prompts import encode_prompts
from rl4llm.rollouts.sampling import Sampling


@dataclass(frozen=True, eq=False)
class Responses:
    """What an engine drew, right-padded.

    Args:
        ids: Tokens; the first end of sequence is part of a response.
        lengths: How many of them were drawn.
        ended: Whether an end of sequence came before the limit.
        log_probs: log μ(token) at the sampling temperature; NaN from an engine that does not tell.
        entropies: H(μ(·|sₜ)); None from an engine that does not tell.
        top_ids: The likeliest tokens at each position; None where they were not asked for.
        top_log_probs: Their log-probs.
    """

    ids: Int[Tensor, "batch time"]
    lengths: Int[Tensor, " batch"]
    ended: Bool[Tensor, " batch"]
    log_probs: Float[Tensor, "batch time"]
    entropies: Float[Tensor, "batch time"] | None = None
    top_ids: Int[Tensor, "batch time top"] | None = None
    top_log_probs: Float[Tensor, "batch time top"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at drawn tokens. From lengths, not ids: the first EOS is in it even where the pad token is EOS."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @classmethod
    def cat(cls, pieces: Sequence["Responses"]) -> "Responses":
        """All rows, padded to a common width."""
        width = max(piece.ids.shape[1] for piece in pieces)
        joined = {}
        for field in fields(cls):
            tensors = [getattr(piece, field.name) for piece in pieces]
            known = not any(tensor is None for tensor in tensors)
            joined[field.name] = torch.cat([_widened(tensor, width) for tensor in tensors]) if known else None
        return cls(**joined)  # type: ignore[arg-type]


def _widened(tensor: Tensor, width: int) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    after = (0, 0) * (tensor.ndim - 2) + (0, width - tensor.shape[1])
    return torch.nn.functional.pad(tensor, after)


class RolloutEngine(ABC):
    """Draws responses. Token ids go in and come out as ids: nothing is decoded and encoded again.

    Attributes:
        top_log_probs: How many of the likeliest tokens it tells at each position.
    """

    top_log_probs: int = 0

    @abstractmethod
    def generate(
        self,
        policy: Policy,
        ids: Int[Tensor, "prefix column"],
        mask: Bool[Tensor, "prefix column"],
        limits: Int[Tensor, " prefix"],
        *,
        copies: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Responses:
        """`copies` responses to every prefix, those of one prefix together.

        Args:
            policy: Whose responses.
            ids: Left-padded prefixes: prompts, or prompts with the beginning of a response.
            mask: True at their tokens.
            limits: Most tokens that may be drawn after each prefix, at least 1.
            copies: Responses a prefix.
            sampling: How tokens are drawn; its length limit is not read.
            generator: Random numbers.
        """

    def __call__(
        self,
        policy: Policy,
        prompts: PromptBatch,
        *,
        responses_per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> RolloutBatch:
        """Responses to every prompt, those of one prompt together; `scores` NaN, `rewards` 0 until scored."""
        device = next(policy.parameters()).device
        ids, mask = encode_prompts(policy, prompts.prompts, sampling.max_response_tokens)
        ids, mask = ids.to(device), mask.to(device)
        limits = torch.full((len(prompts),), sampling.max_response_tokens, device=device)
        drawn = self.generate(
            policy, ids, mask, limits, copies=responses_per_prompt, sampling=sampling, generator=generator
        )
        group_ids = torch.arange(len(prompts), device=device).repeat_interleave(responses_per_prompt)
        return RolloutBatch(
            prompt_ids=ids[group_ids],
            prompt_mask=mask[group_ids],
            response_ids=drawn.ids,
            response_mask=drawn.mask,
            group_ids=group_ids,
            prompt_uids=prompts.uids.to(device)[group_ids],
            scores=torch.full((len(group_ids),), torch.nan, device=device),
            truncated=~drawn.ended,
            rewards=torch.zeros(drawn.ids.shape, device=device),
            rollout_log_probs=drawn.log_probs,
            old_log_probs=drawn.log_probs,
            entropies=drawn.entropies,
            top_ids=drawn.top_ids,
            top_log_probs=drawn.top_log_probs,
        )


def decode_responses(policy: Policy, batch: RolloutBatch) -> list[str]:
    """Responses as text, up to the end of what was generated and without special tokens."""
    return decode(policy, batch.response_ids, batch.widths)


def decode(policy: Policy, ids: Int[Tensor, "batch time"], widths: Int[Tensor, " batch"]) -> list[str]:
    """The first `widths` tokens of each row as text, without special tokens."""
    rows = [row[:width] for row, width in zip(ids.tolist(), widths.tolist(), strict=True)]
    return policy.tokenizer.batch_decode(rows, skip_special_tokens=True)


def decode_pieces(policy: Policy, batch: RolloutBatch) -> list[list[str]]:
    """The text of every response token, up to the end of what was generated; the pieces of a row join to its text."""
    rows = [row[:width] for row, width in zip(batch.response_ids.tolist(), batch.widths.tolist(), strict=True)]
    known = sorted({ident for row in rows for ident in row})
    single = dict(
        zip(known, policy.tokenizer.batch_decode([[i] for i in known], skip_special_tokens=True), strict=True)
    )
    texts = decode_responses(policy, batch)
    pieces = [[single[ident] for ident in row] for row in rows]
    return [
        own if "".join(own) == text else _by_prefixes(policy, row)
        for own, row, text in zip(pieces, rows, texts, strict=True)
    ]


def _by_prefixes(policy: Policy, row: list[int]) -> list[str]:
    """What each token adds to the text before it, for tokenizers whose tokens depend on their neighbours."""
    texts = policy.tokenizer.batch_decode([row[:end] for end in range(len(row) + 1)], skip_special_tokens=True)
    pieces, said = [], 0
    for end, text in enumerate(texts[1:], start=1):
        complete = end == len(row) or not text.endswith("�")  # half of a character stays with the token that ends it
        pieces.append(text[said:] if complete else "")
        said = len(text) if complete else said
    return pieces
