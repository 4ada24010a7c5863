"""The family of advantage estimators: `batch -> Advantages`."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch


class Advantages(NamedTuple):
    """Aₜ and, for estimators that give value targets, Rₜ; both zero where the mask is False, both without graph."""

    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"] | None = None


class AdvantageEstimator(ABC):
    """How much better a token was than expected.

    Attributes:
        needs: Optional fields of the batch that it reads.
        paper: arXiv id of its source.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Advantages of every trained token of the batch."""
