"""`LastResponses`: the last response to each prompt, with its log-probs when it was stored."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch


class _Response(NamedTuple):
    """One response without padding."""

    prompt_ids: Tensor
    response_ids: Tensor
    response_mask: Tensor
    log_probs: Tensor

    def as_batch(self, uid: int) -> RolloutBatch:
        zeros = torch.zeros_like(self.log_probs)[None]
        return RolloutBatch(
            prompt_ids=self.prompt_ids[None],
            prompt_mask=torch.ones(1, len(self.prompt_ids), dtype=torch.bool),
            response_ids=self.response_ids[None],
            response_mask=self.response_mask[None],
            group_ids=torch.tensor([uid]),
            prompt_uids=torch.tensor([uid]),
            scores=torch.zeros(1),
            truncated=torch.zeros(1, dtype=torch.bool),
            rewards=zeros,
            rollout_log_probs=zeros,
            old_log_probs=self.log_probs[None],
        )


class LastResponses:
    """One response per prompt, by uid, on the CPU and without padding."""

    def __init__(self) -> None:
        self._responses: dict[int, _Response] = {}

    def __len__(self) -> int:
        return len(self._responses)

    def __contains__(self, uid: int) -> bool:
        return uid in self._responses

    def store(self, batch: RolloutBatch, log_probs: Float[Tensor, "batch time"]) -> None:
        """Keep every row, in place of what its prompt had before."""
        widths, uids = batch.widths.tolist(), batch.prompt_uids.tolist()
        prompt_ids, prompt_mask = batch.prompt_ids.cpu(), batch.prompt_mask.cpu()
        response = [x.cpu() for x in (batch.response_ids, batch.response_mask, log_probs.detach())]
        for row, (uid, width) in enumerate(zip(uids, widths, strict=True)):
            cut = (x[row, :width].clone() for x in response)
            self._responses[uid] = _Response(prompt_ids[row][prompt_mask[row]], *cut)

    def rows(self, uids: list[int]) -> RolloutBatch:
        """The responses to these prompts, which must have one; `old_log_probs` are those when they were stored."""
        return RolloutBatch.cat([self._responses[uid].as_batch(uid) for uid in uids])

    def state(self) -> dict[str, Tensor]:
        """Plain tensors: uids, lengths, and the responses one after another."""
        rows = [self._responses[uid] for uid in sorted(self._responses)]
        state = {
            "response_uids": torch.tensor(sorted(self._responses), dtype=torch.long),
            "prompt_lengths": torch.tensor([len(row.prompt_ids) for row in rows], dtype=torch.long),
            "response_lengths": torch.tensor([len(row.response_ids) for row in rows], dtype=torch.long),
        }
        joined = {name: [getattr(row, name) for row in rows] for name in _Response._fields}
        return state | {name: torch.cat(pieces) if pieces else torch.zeros(0) for name, pieces in joined.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """What `state` gave."""
        prompts, responses = state["prompt_lengths"].tolist(), state["response_lengths"].tolist()
        lengths = {name: prompts if name == "prompt_ids" else responses for name in _Response._fields}
        pieces = [state[name].cpu().split(lengths[name]) for name in _Response._fields]
        uids = state["response_uids"].tolist()
        self._responses = {
            uid: _Response(*(piece.clone() for piece in row))
            for uid, row in zip(uids, zip(*pieces, strict=True), strict=False)
        }
