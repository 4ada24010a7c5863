"""`ShareGate`: the common base of the gates that rank the trained tokens by one field and drop a share of them."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_fraction
from rl4llm.gates.base import Gate
from rl4llm.gates.noise import tie_breaks


@dataclass(frozen=True)
class ShareGate(Gate):
    """Gate that drops a share of the trained tokens, ranked by the one field that it reads.

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1).
        exact: Whether exactly that share is dropped, equal tokens by a hash of their content; else ties are kept whole.
    """

    fraction: float = 0.2
    exact: bool = False

    def __post_init__(self) -> None:
        check_fraction(type(self).__name__, fraction=self.fraction)

    def kept_by(
        self, function: Callable[..., Tensor], batch: RolloutBatch, **options: float
    ) -> Bool[Tensor, "batch time"]:
        """Apply a function of (field, response_mask, fraction, ties) to the field that the gate reads.

        Args:
            function: The function that ranks the field and drops the share.
            batch: The batch that holds the field.
            options: Further keyword arguments of the function.
        """
        (ranked,) = self.take(batch)
        ties = tie_breaks(batch, self.exact)
        return function(ranked, batch.response_mask, fraction=self.fraction, ties=ties, **options)
