"""The value loss as a penalty: for a value head on the policy's own trunk."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import check_interval
from rl4llm.gates.base import Gate
from rl4llm.regularizers.base import Regularizer
from rl4llm.value_losses import value_loss


@dataclass(frozen=True)
class ValueRegression(Regularizer):
    """Regularizer: squared error of the policy's own value head, trained through the trunk. See [value_loss][].

    Responses that could not be scored have no return to learn from and no penalty.

    Args:
        coef: Weight, at least 0.
        where: Gate that restricts it; all response tokens when None.
    """

    coef: float = 0.5
    where: Gate | None = None
    reads: ClassVar[tuple[str, ...]] = ("returns",)
    asks: ClassVar[tuple[str, ...]] = ("values",)
    paper: ClassVar[str] = "2509.01720"

    def __post_init__(self) -> None:
        check_interval("ValueRegression", 0.0, ends="[)", coef=self.coef)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`."""
        (returns,) = self.take(batch)
        (values,) = self.ask(policy)
        return self.coef * value_loss(values, returns, batch.scored_mask)
