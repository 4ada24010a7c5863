"""The family of advantage estimators: `batch -> Advantages`."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.parts import Part


class Advantages(NamedTuple):
    """Advantages Aₜ and, if the estimator gives value targets, returns Rₜ; 0 where the mask is False, no graph."""

    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"] | None = None


class AdvantageEstimator(Part):
    """Base class of the estimators that say how much better a token was than expected.

    The laws of `rl4llm.testing` verify what it declares, here and as a [Part][rl4llm.parts.Part].

    Attributes:
        smallest_group: Responses of one prompt below which it gives no signal.
        domain: Scores that it is made for.
        compares: What an advantage depends on beside its own response: nothing, its group, or the whole batch.
        invariances: What the scores of a group may undergo without any change: "shift", "scale"; "homogeneous" means
            that advantages grow with the scores.
    """

    smallest_group: ClassVar[int] = 1
    domain: ClassVar[Literal["real", "non-negative", "binary"]] = "real"
    compares: ClassVar[Literal["nothing", "group", "batch"]] = "nothing"
    invariances: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token of the batch."""

    def update_scale(self, size: int) -> float | None:
        """Return the multiple of the policy gradient that the expected update is; None if it is not a multiple.

        A result of 1 means unbiased. The update is (1/n) Σᵢ Aᵢ ∇ log π(yᵢ), with one-token responses and any constant
        in `values`.
        """
        return None

    def diagnostics(self, batch: RolloutBatch) -> Mapping[str, Tensor]:
        """Return extra metrics by name, whose means the loop logs; none by default."""
        return {}
