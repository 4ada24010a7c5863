"""The family of policy objectives: `(policy, batch) -> loss` for each token or each response, to be minimized."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.parts import Part


class PolicyObjective(Part):
    """What the policy minimizes. Gradient flows through `policy` only.

    Attributes:
        level: Whether the loss is one number a token (batch time) or one a response (batch).
        whole_groups: Whether the loss of a response depends on its siblings, so that the loop never cuts a group.
        smallest_group: Responses of one prompt below which it gives no signal.
        is_policy_gradient: Whether its gradient is that of REINFORCE while the policy is the one that acted.
    """

    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    level: ClassVar[Literal["token", "response"]] = "token"
    whole_groups: ClassVar[bool] = False
    smallest_group: ClassVar[int] = 1
    is_policy_gradient: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch ..."]:
        """Loss of every response token (0 where `response_mask` is False), or of every response."""


def _nothing(by: str) -> None:
    """Raise never: the check of an objective without options."""


@dataclass(frozen=True)
class RatioObjective(PolicyObjective):
    """An objective of the ratio to the policy that sampled: its class names a function, its fields are the options.

    Attributes:
        function: `(log_probs, anchor, advantages, response_mask, **options) -> loss`.
        check: `(by, **options)`, raises unless the options are in their domains.
        anchor: Field of the batch that holds the log-probs below the fraction bar.
    """

    check: ClassVar[Callable[..., None]] = staticmethod(_nothing)
    anchor: ClassVar[str] = "old_log_probs"
    is_policy_gradient: ClassVar[bool] = True

    @property
    @abstractmethod
    def function(self) -> Callable[..., Float[Tensor, "batch ..."]]:
        """The pure function."""

    def __post_init__(self) -> None:
        self.check(type(self).__name__, **options_of(self))

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch ..."]:
        """Loss of every response token, or of every response."""
        anchor, advantages = batch.require(self.anchor, "advantages", by=type(self).__name__)
        return self.function(policy.log_probs, anchor, advantages, batch.response_mask, **options_of(self))


def options_of(part: Any) -> dict[str, Any]:
    """The fields of a component, as keyword arguments of the function that it calls."""
    return {field.name: getattr(part, field.name) for field in fields(part)}
