"""The family of reward shapings: `batch -> token rewards`, charged before advantages are estimated."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch


class RewardShaping(ABC):
    """A charge in the reward: of length, of divergence from the reference.

    Attributes:
        needs: Optional fields of the batch that it reads.
        paper: arXiv id of its source.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """The batch's token rewards with the charge, in their dtype, without graph; 0 where the mask is False."""
