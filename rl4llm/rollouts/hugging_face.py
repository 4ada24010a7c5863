"""`HuggingFaceRollout`: responses from the policy's own weights, with the prompt's cache computed once a prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.models.loading import accepts
from rl4llm.models.policy import for_model, positions
from rl4llm.rollouts.base import RolloutEngine
from rl4llm.rollouts.prompts import encode_prompts
from rl4llm.rollouts.sampling import Sampling, draw


@dataclass(frozen=True)
class HuggingFaceRollout(RolloutEngine):
    """The policy's own Hugging Face model and nothing else.

    The prompt's key-value cache is computed once and shared by its responses; log-probs and entropies come out of the
    sampling pass; rows that have ended leave the batch.

    Args:
        rows_at_once: Most responses generated side by side; sets memory, never the distribution.
    """

    rows_at_once: int = 1024

    def __post_init__(self) -> None:
        check_at_least("HuggingFaceRollout", 1, rows_at_once=self.rows_at_once)

    @torch.no_grad()
    def __call__(
        self,
        policy: Policy,
        prompts: PromptBatch,
        *,
        responses_per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> RolloutBatch:
        """Responses to every prompt, those of one prompt together."""
        device = next(policy.parameters()).device
        ids, mask = encode_prompts(policy, prompts.prompts, sampling.max_response_tokens)
        ids, mask = ids.to(device), mask.to(device)
        at_once = max(1, self.rows_at_once // responses_per_prompt)
        draws = torch.arange(len(prompts), device=device)
        pieces = []
        for rows in draws.split(at_once):
            generated = _Generation(policy, sampling, generator, ids[rows], mask[rows], responses_per_prompt).run()
            group_ids = rows.repeat_interleave(responses_per_prompt)
            uids = prompts.uids.to(device)[group_ids]
            pieces.append(_as_batch(generated, ids[group_ids], mask[group_ids], group_ids, uids))
        return RolloutBatch.cat(pieces)


class _Generation:
    """One call's state: what has been written so far, and the cache of the rows that have not ended."""

    def __init__(
        self, policy: Policy, sampling: Sampling, generator: torch.Generator, ids: Tensor, mask: Tensor, n: int
    ) -> None:
        self.policy, self.sampling, self.generator = policy, sampling, generator
        self.cache = DynamicCache(config=policy.model.config)
        self.mask = mask
        self.logits = self._forward(ids, positions(mask)).repeat_interleave(n, dim=0)
        self.cache.batch_repeat_interleave(n)
        self.mask = mask.repeat_interleave(n, dim=0)
        shape = (len(self.mask), sampling.max_response_tokens)
        self.tokens = torch.full(shape, policy.pad_id, device=ids.device)
        self.log_probs, self.entropies = torch.zeros(2, *shape, device=ids.device)
        self.lengths = torch.zeros(len(self.mask), dtype=torch.long, device=ids.device)
        self.ended = torch.zeros(len(self.mask), dtype=torch.bool, device=ids.device)
        self.active = torch.arange(len(self.mask), device=ids.device)
        self.end_ids = torch.tensor(policy.end_ids, device=ids.device, dtype=torch.long)

    def _forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": self.mask.long(), "position_ids": position_ids}
        model = self.policy.model
        options = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        output = model(**for_model(model, inputs), **options, past_key_values=self.cache, use_cache=True)
        return output.logits[:, -1]

    def run(self) -> "_Generation":
        """Draw until every row has ended or is full."""
        training = self.policy.training
        self.policy.eval()
        for step in range(self.sampling.max_response_tokens):
            drawn = self._write(step)
            if step + 1 == self.sampling.max_response_tokens or not len(self.active):
                break
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
            self.logits = self._forward(drawn[:, None], positions(self.mask)[:, -1:])
        self.policy.train(training)
        return self

    def _write(self, step: int) -> Tensor:
        drawn, log_probs, entropies = draw(self.logits, self.sampling, self.generator)
        self.tokens[self.active, step] = drawn
        self.log_probs[self.active, step] = log_probs
        self.entropies[self.active, step] = entropies
        self.lengths[self.active] = step + 1
        ends = torch.isin(drawn, self.end_ids)
        self.ended[self.active] = ends
        if not ends.any():
            return drawn
        going = (~ends).nonzero()[:, 0]
        self.active, self.mask = self.active[going], self.mask[going]
        if len(going):
            self.cache.batch_select_indices(going)
        return drawn[going]


def _as_batch(generated: _Generation, ids: Tensor, mask: Tensor, group_ids: Tensor, uids: Tensor) -> RolloutBatch:
    # The mask is made from lengths, never from token ids: the first EOS is in it even where the pad token is EOS.
    time = int(generated.lengths.max())
    response_mask = torch.arange(time, device=ids.device) < generated.lengths[:, None]
    return RolloutBatch(
        prompt_ids=ids,
        prompt_mask=mask,
        response_ids=generated.tokens[:, :time],
        response_mask=response_mask,
        group_ids=group_ids,
        prompt_uids=uids,
        scores=torch.full((len(ids),), torch.nan, device=ids.device),
        truncated=~generated.ended,
        rewards=torch.zeros(response_mask.shape, device=ids.device),
        rollout_log_probs=generated.log_probs[:, :time],
        old_log_probs=generated.log_probs[:, :time],
        entropies=generated.entropies[:, :time],
    )


def decode_responses(policy: Policy, batch: RolloutBatch) -> list[str]:
    """Responses as text, up to the end of what was generated and without special tokens."""
    widths = batch.widths.tolist()
    ids = [row[:width] for row, width in zip(batch.response_ids.tolist(), widths, strict=True)]
    return policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
