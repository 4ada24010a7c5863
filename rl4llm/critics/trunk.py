"""`TrunkCritic`: a value head on the policy's own trunk, trained with the policy's loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.heads import Head, SigmoidHead
from rl4llm.critics.layers import ValueHead
from rl4llm.models.policy import ModelSource, Policy


@dataclass(frozen=True)
class TrunkCritic(ValueSpec):
    """A value head that shares the policy's weights (as in SoLS, arXiv:2509.01720).

        zₜ = W hₜ + b        V(sₜ) = value of zₜ by the head, σ(zₜ) by default

    hₜ is the policy's last hidden state at the position that predicts token t. It is trained by a
    [ValueRegression][rl4llm.regularizers.ValueRegression] beside the objective, whose gradient reaches all weights: a
    squared error of the values, whatever loss the head has of its own.

    Args:
        head: How many outputs, and how they say a value. The sigmoid keeps values in (0, 1), which makes every success
            better than expected and every failure worse.
        head_scale: Scale of the new head's weights; 0 starts all values at the head's middle.
        seed: Of the head.
    """

    head: Head = SigmoidHead()
    head_scale: float = 0.1
    seed: int = 0
    shares_trunk: ClassVar[bool] = True
    paper: ClassVar[str] = "2509.01720"

    def __post_init__(self) -> None:
        check_interval("TrunkCritic", 0.0, float("inf"), "[)", head_scale=self.head_scale)

    def check(self, source: ModelSource, responses_per_prompt: int) -> None:
        """No-op: the critic uses the policy's own model, so there is nothing to check."""

    def build(self, source: ModelSource, policy: Policy) -> "TrunkCriticSource":
        """Build the source and give the policy its head."""
        width = policy.model.config.get_text_config().hidden_size
        generator = torch.Generator().manual_seed(self.seed)
        policy.value_head = ValueHead(width, self.head, scale=self.head_scale, generator=generator)
        return TrunkCriticSource()


class TrunkCriticSource(ValueSource):
    """Reads the policy's value head; the policy's own loss trains it."""

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with `values`."""
        return batch.replace(values=context.own_values(batch))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Do nothing, because the head learns with the policy."""
