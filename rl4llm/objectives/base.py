"""The family of policy objectives: `(policy, batch) -> loss` for each token or each response, to be minimized."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch


class PolicyObjective(ABC):
    """What the policy minimizes. Gradient flows through `policy` only.

    Attributes:
        needs: Optional fields of the batch that it reads.
        asks: Fields of `PolicyOutput` beyond the log-probs that it reads ("entropies", "logsumexp").
        level: Whether the loss is one number a token (batch time) or one a response (batch).
        paper: arXiv id of its source.
    """

    needs: ClassVar[tuple[str, ...]] = ("advantages",)
    asks: ClassVar[tuple[str, ...]] = ()
    level: ClassVar[Literal["token", "response"]] = "token"
    paper: ClassVar[str]

    @abstractmethod
    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch ..."]:
        """Loss of every response token (0 where `response_mask` is False), or of every response."""
