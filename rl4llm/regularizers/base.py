"""The family of regularizers: `(policy, batch) -> penalty` for each token, minimized together with the objective."""

from abc import abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.gates.base import Gate
from rl4llm.objectives.base import Aggregator
from rl4llm.parts import Part


class Regularizer(Part):
    """Base class of the penalties that are added to the objective, weighted by `coef`; a bonus is a negative penalty.

    Every regularizer has two fields: `coef`, its weight, and `where`, a gate that restricts it (None: all tokens).
    The penalty itself is not gated: the loop evaluates `where` once on the whole rollout batch and multiplies.

    Attributes:
        aggregator: How its tokens become one number; None: as those of the objective.
        kl_value: "exact" if its mean over the policy's own tokens is KL(π_θ‖π_ref), times `coef`; None: not declared.
        kl_gradient: Whether the mean of its gradient is that of KL(π_θ‖π_ref) ("exact"), that of KL(π_ref‖π_θ)
            ("reverse"), or zero ("none"); None: not declared.
    """

    kl_value: ClassVar[Literal["exact"] | None] = None
    kl_gradient: ClassVar[Literal["exact", "reverse", "none"] | None] = None
    coef: float
    where: Gate | None
    aggregator: Aggregator | None = None

    @abstractmethod
    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, times `coef`; 0 where `response_mask` is False."""
