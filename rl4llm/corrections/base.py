"""The family of corrections: `batch -> weights` for what the sampling engine and the trainer disagree on."""

from abc import abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.parts import Part


class Correction(Part):
    """How much a token counts, given that an engine drew it whose log-probs are not quite the trainer's.

    The loop multiplies the advantages with the weights, once for the rollout batch. Every objective that is
    proportional to its advantages is weighted so. It reads the trainer's own `old_log_probs`, which the loop computes.

    Attributes:
        in_divisor: Whether a token of weight 0 still counts in the divisor of the objective's mean.
    """

    reads: ClassVar[tuple[str, ...]] = ("old_log_probs",)
    in_divisor: bool = True

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Weight of every response token, at least 0, without graph; 0 where `response_mask` is False."""

    def counted(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """True where the token counts in the divisor of the objective's mean."""
        return batch.response_mask if self.in_divisor else batch.response_mask & (self(batch) > 0)
