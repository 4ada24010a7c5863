"""VinePPO's values: the mean score of fresh continuations from the beginning of every step of a response."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_interval
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.prompts import distinct_prefixes
from rl4llm.masked import keep, masked_mean
from rl4llm.segment_ids import segment_starts
from rl4llm.segments.base import Segmenter
from rl4llm.segments.newline import Newline


class MonteCarloValuesSource(ValueSource):
    """V̂(s) = mean score of fresh responses of the present policy that begin with s. It never learns.

    Args:
        samples: Continuations of each state.
        segmenter: Where the steps begin whose first states are valued.
        max_segments: States beyond the first of each response for which continuations are drawn; None: all.
        unfinished: Score of continuations that the length limit cuts off; None: what the reward gives.
    """

    def __init__(
        self, *, samples: int, segmenter: Segmenter, max_segments: int | None, unfinished: float | None
    ) -> None:
        super().__init__()
        self.samples, self.segmenter = samples, segmenter
        self.max_segments, self.unfinished = max_segments, unfinished

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with `segment_ids` and, at every trained token, the value at the beginning of its step."""
        mask = batch.response_mask
        segment_ids = self.segmenter(context.decode(batch), mask)
        starts = segment_starts(segment_ids, mask)
        asked = starts if self.max_segments is None else starts & (segment_ids <= self.max_segments)
        at_starts = keep(batch.outcomes[:, None].expand(mask.shape), starts & batch.scored_mask).to(batch.rewards.dtype)
        rows, cuts = asked.nonzero(as_tuple=True)
        at_starts[rows, cuts] = self._estimates(batch, rows, cuts, context).to(at_starts)
        columns = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        began = keep(columns, starts).cummax(-1).values if mask.shape[1] else columns
        return batch.replace(values=keep(at_starts.gather(-1, began), mask), segment_ids=segment_ids)

    def _estimates(self, batch: RolloutBatch, rows: Tensor, cuts: Tensor, context: ValueContext) -> Tensor:
        asked, stands_for = distinct_prefixes(batch, rows, cuts)
        if not len(asked):
            return torch.zeros(0, device=rows.device)
        rows, cuts = rows[asked], cuts[asked]
        scores = context.complete(batch, rows, cuts, samples=self.samples, unfinished=self.unfinished)
        return masked_mean(scores, ~scores.isnan(), dim=-1)[stands_for]

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Do nothing, because the next batch is valued from scratch."""


@dataclass(frozen=True)
class MonteCarloValues(ValueSpec):
    """VinePPO's values (arXiv:2410.01679): continuations of every step of every response, instead of a critic.

    A state that several responses share is continued once. Continuations are for values only and never trained on.

    Args:
        samples: K, continuations of each state.
        segmenter: Where steps begin.
        max_segments: M: continuations are drawn from the prompt and after each of the first M steps only; None: all.
            Beyond, the response's own score is the value, so that later steps have advantage 0.
        unfinished: Score of continuations that the length limit cuts off; None: what the reward gives.
    """

    samples: int = 9
    segmenter: Segmenter = Newline()  # noqa: RUF009
    max_segments: int | None = None
    unfinished: float | None = None
    needs_prompts: ClassVar[bool] = True
    values_states: ClassVar[bool] = False
    paper: ClassVar[str] = "2410.01679"

    def __post_init__(self) -> None:
        check_at_least("MonteCarloValues", 1, samples=self.samples)
        check_at_least("MonteCarloValues", 0, max_segments=self.max_segments)
        check_interval("MonteCarloValues", ends="()", unfinished=self.unfinished)

    def check(self, source: object, responses_per_prompt: int) -> None:
        """Accept any policy: one response per prompt is enough."""

    def build(self, source: object, policy: nn.Module | None = None) -> MonteCarloValuesSource:
        """Build the value source."""
        return MonteCarloValuesSource(
            samples=self.samples,
            segmenter=self.segmenter,
            max_segments=self.max_segments,
            unfinished=self.unfinished,
        )
