"""`HuggingFaceRollout`: responses from the policy's own weights, with the prefix's cache computed once a prefix."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from rl4llm.checks import check_at_least
from rl4llm.models import Policy
from rl4llm.models.loading import accepts
from rl4llm.models.policy import for_model, positions
from rl4llm.rollouts.base import Responses, RolloutEngine
from rl4llm.rollouts.sampling import Sampling, draw


@dataclass(frozen=True)
class HuggingFaceRollout(RolloutEngine):
    """The policy's own Hugging Face model and nothing else.

    The prefix's key-value cache is computed once and shared by its responses; log-probs and entropies come out of the
    sampling pass; rows that have ended leave the batch.

    Args:
        rows_at_once: Most responses generated side by side; sets memory, never the distribution.
        top_log_probs: How many of the likeliest tokens to tell at each position, for divergences over them.
    """

    rows_at_once: int = 1024
    top_log_probs: int = 0

    def __post_init__(self) -> None:
        check_at_least("HuggingFaceRollout", 1, rows_at_once=self.rows_at_once)
        check_at_least("HuggingFaceRollout", 0, top_log_probs=self.top_log_probs)

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        ids: Tensor,
        mask: Tensor,
        limits: Tensor,
        *,
        copies: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Responses:
        """`copies` responses to every prefix, those of one prefix together."""
        pieces = []
        for rows in torch.arange(len(ids), device=ids.device).split(max(1, self.rows_at_once // copies)):
            generation = _Generation(policy, sampling, generator, self.top_log_probs)
            pieces.append(generation.run(ids[rows], mask[rows], limits[rows], copies))
        return Responses.cat(pieces)


class _Generation:
    """One call's state: what has been written so far, and the cache of the rows that have not ended."""

    def __init__(self, policy: Policy, sampling: Sampling, generator: torch.Generator, top: int) -> None:
        self.policy, self.sampling, self.generator, self.top = policy, sampling, generator, top
        self.cache = DynamicCache(config=policy.model.config)

    def run(self, ids: Tensor, mask: Tensor, limits: Tensor, copies: int) -> Responses:
        """Draw until every row has ended or is full."""
        training, steps = self.policy.training, int(limits.max())
        self.policy.eval()
        self.mask = mask
        self.logits = self._forward(ids, positions(mask)).repeat_interleave(copies, dim=0)
        self.top = min(self.top, self.logits.shape[-1])
        self.cache.batch_repeat_interleave(copies)
        self.mask = mask.repeat_interleave(copies, dim=0)
        self._make_room(limits.repeat_interleave(copies), steps)
        for step in range(steps):
            drawn = self._write(step)
            if not len(self.active):
                break
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
            self.logits = self._forward(drawn[:, None], positions(self.mask)[:, -1:])
        self.policy.train(training)
        return self._responses()

    def _make_room(self, limits: Tensor, steps: int) -> None:
        device, shape = limits.device, (len(limits), steps)
        self.limits, self.active = limits, torch.arange(len(limits), device=device)
        self.tokens = torch.full(shape, self.policy.pad_id, device=device)
        self.log_probs, self.entropies = torch.zeros(2, *shape, device=device)
        self.lengths = torch.zeros(len(limits), dtype=torch.long, device=device)
        self.ended = torch.zeros(len(limits), dtype=torch.bool, device=device)
        self.end_ids = torch.tensor(self.policy.end_ids, device=device, dtype=torch.long)
        self.top_ids = torch.zeros(*shape, self.top, dtype=torch.long, device=device)
        self.top_log_probs = torch.zeros(*shape, self.top, device=device)

    def _forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": self.mask.long(), "position_ids": position_ids}
        model = self.policy.model
        options = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        output = model(**for_model(model, inputs), **options, past_key_values=self.cache, use_cache=True)
        return output.logits[:, -1]

    def _write(self, step: int) -> Tensor:
        drawn = draw(self.logits, self.sampling, self.generator, top=self.top)
        self.tokens[self.active, step] = drawn.tokens
        self.log_probs[self.active, step] = drawn.log_probs
        self.entropies[self.active, step] = drawn.entropies
        self.top_ids[self.active, step], self.top_log_probs[self.active, step] = drawn.top_ids, drawn.top_log_probs
        self.lengths[self.active] = step + 1
        ends = torch.isin(drawn.tokens, self.end_ids)
        self.ended[self.active] = ends
        stops = ends | (self.limits[self.active] == step + 1)
        if not stops.any():
            return drawn.tokens
        going = (~stops).nonzero()[:, 0]
        self.active, self.mask = self.active[going], self.mask[going]
        if len(going):
            self.cache.batch_select_indices(going)
        return drawn.tokens[going]

    def _responses(self) -> Responses:
        time = int(self.lengths.max())
        top = (self.top_ids[:, :time], self.top_log_probs[:, :time]) if self.top else (None, None)
        return Responses(
            self.tokens[:, :time],
            self.lengths,
            self.ended,
            self.log_probs[:, :time],
            self.entropies[:, :time],
            *top,
        )
