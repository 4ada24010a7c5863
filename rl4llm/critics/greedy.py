"""ReMax's baseline: the score of the likeliest response to the prompt."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from rl4llm.batch import RolloutBatch
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.prompts import distinct_prefixes
from rl4llm.masked import spread


class GreedyValueSource(ValueSource):
    """V̂ of a prompt = score of one greedy response of the present policy to it. It never learns."""

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with that score at every trained token; 0 where the greedy response could not be scored."""
        rows = batch.response_mask.any(-1).nonzero()[:, 0]
        asked, stands_for = distinct_prefixes(batch, rows, torch.zeros_like(rows))
        values = torch.zeros(len(batch), dtype=batch.rewards.dtype, device=rows.device)
        if len(asked):
            scores = context.complete(batch, rows[asked], torch.zeros_like(asked), samples=1, greedy=True)
            values[rows] = scores[:, 0].nan_to_num(nan=0.0)[stands_for].to(values)
        return batch.replace(values=spread(values, batch.response_mask))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Do nothing, because the next batch is valued from scratch."""


@dataclass(frozen=True)
class GreedyValue(ValueSpec):
    """ReMax's baseline (arXiv:2310.10505): the score of one greedy response to each prompt of the batch."""

    needs_prompts: ClassVar[bool] = True
    values_states: ClassVar[bool] = False
    paper: ClassVar[str] = "2310.10505"

    def check(self, source: object, responses_per_prompt: int) -> None:
        """Accept any policy: one response per prompt is enough."""

    def build(self, source: object, policy: nn.Module | None = None) -> GreedyValueSource:
        """Build the value source."""
        return GreedyValueSource()
