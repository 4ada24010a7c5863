"""`TrunkCritic`: a value head on the policy's own trunk, trained with the policy's loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.heads import Float32Linear
from rl4llm.models.policy import ModelSource, Policy


@dataclass(frozen=True)
class TrunkCritic(ValueSpec):
    """A value head that shares the policy's weights (as in SoLS, arXiv:2509.01720).

        V(sₜ) = σ(wᵀ hₜ + b)        (without σ when `bounded` is False)

    hₜ is the policy's last hidden state at the position that predicts token t. It is trained by a
    [ValueRegression][rl4llm.regularizers.ValueRegression] beside the objective, whose gradient reaches all weights.

    Args:
        bounded: Whether values lie in (0, 1), which makes every success better than expected and every failure worse.
        head_scale: Scale of the new head's weights; 0 starts all values at the middle.
        seed: Of the head.
    """

    bounded: bool = True
    head_scale: float = 0.1
    seed: int = 0
    shares_trunk: ClassVar[bool] = True
    paper: ClassVar[str] = "2509.01720"

    def __post_init__(self) -> None:
        check_interval("TrunkCritic", 0.0, float("inf"), "[)", head_scale=self.head_scale)

    def check(self, source: ModelSource, responses_per_prompt: int) -> None:
        """Nothing can be wrong: it is the policy's own model."""

    def build(self, source: ModelSource, policy: Policy) -> "TrunkCriticSource":
        """The source; the policy gets its head."""
        width = policy.model.config.get_text_config().hidden_size
        generator = torch.Generator().manual_seed(self.seed)
        policy.value_head = ValueHead(width, self.bounded, self.head_scale, generator)
        return TrunkCriticSource()


class ValueHead(nn.Module):
    """From a hidden state to a value.

    Args:
        width: Of the hidden states.
        bounded: Whether values lie in (0, 1).
        scale: Standard deviation of the weights, times 1/√width.
        generator: Of the weights.
    """

    def __init__(self, width: int, bounded: bool, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.affine, self.bounded = Float32Linear(width, 1), bounded
        nn.init.normal_(self.affine.weight, std=scale * width**-0.5, generator=generator)
        nn.init.zeros_(self.affine.bias)

    def forward(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes 1"]:
        """One value a position."""
        values = self.affine(hidden)
        return values.sigmoid() if self.bounded else values


class TrunkCriticSource(ValueSource):
    """Reads the policy's value head; the policy's own loss trains it."""

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """The batch with `values`."""
        return batch.replace(values=context.own_values(batch))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Nothing: the head learns with the policy."""
