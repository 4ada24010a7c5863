"""What a critic minimizes at each token: the squared error to the return, plain or clipped around the old value."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval
from rl4llm.parts import Part
from rl4llm.value_losses import clipped_value_loss, value_loss


class ValueLoss(Part):
    """What a critic minimizes. Gradient flows through `values` only.

    Responses that could not be scored have no return to learn from; the loss is 0 there (`batch.scored_mask`).
    """

    reads: ClassVar[tuple[str, ...]] = ("returns",)

    def prepare(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with what the loss needs to know of all its rows; called once, before it is cut. Nothing here."""
        return batch

    @abstractmethod
    def __call__(self, values: Float[Tensor, "batch time"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Loss of every trained token for one critic's present `values`; `batch.values` are those before the update."""


@dataclass(frozen=True)
class SquaredValueLoss(ValueLoss):
    """Squared error to the returns. See [value_loss][rl4llm.value_losses.value_loss]."""

    paper: ClassVar[str] = "1707.06347"

    def __call__(self, values: Float[Tensor, "batch time"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return `value_loss` against `batch.returns`."""
        (returns,) = self.take(batch)
        return value_loss(values, returns, batch.scored_mask)


@dataclass(frozen=True)
class ClippedValueLoss(ValueLoss):
    """Squared error clipped around the old values. See [clipped_value_loss][rl4llm.value_losses.clipped_value_loss].

    Args:
        clip: How far a value may move from its old one before it stops gaining, in units of the return.
    """

    clip: float = 0.2
    reads: ClassVar[tuple[str, ...]] = ("values", "returns")
    paper: ClassVar[str] = "2005.12729"

    def __post_init__(self) -> None:
        check_interval("ClippedValueLoss", 0.0, ends="(]", clip=self.clip)

    def __call__(self, values: Float[Tensor, "batch time"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """`clipped_value_loss` against `batch.returns`, around `batch.values`."""
        old_values, returns = self.take(batch)
        return clipped_value_loss(values, old_values, returns, batch.scored_mask, clip=self.clip)
