"""The family of regularizers: `(policy, batch) -> penalty` for each token, to be minimized beside the objective."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.gates.base import Gate


class Regularizer(ABC):
    """A penalty beside the objective, already weighted by its coefficient; a bonus is a negative penalty.

    Every regularizer has two fields: `coef`, its weight, and `where`, a gate that restricts it (None: all tokens).
    The penalty itself is not gated: the loop evaluates `where` once on the whole rollout batch and multiplies.

    Attributes:
        needs: Optional fields of the batch that it reads.
        asks: Fields of `PolicyOutput` beyond the log-probs that it reads ("entropies", "logsumexp").
        paper: arXiv id of its source.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]
    coef: float
    where: Gate | None

    @abstractmethod
    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Penalty of every response token, times `coef`; 0 where `response_mask` is False."""
