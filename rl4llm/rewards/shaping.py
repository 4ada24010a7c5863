"""The family of reward shapings: `batch -> token rewards`, charged before advantages are estimated."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.parts import Part


class RewardShaping(Part):
    """A charge in the reward: of length, of divergence from the reference."""

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """The batch's token rewards with the charge, in their dtype, without graph; 0 where the mask is False."""
