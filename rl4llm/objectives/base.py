"""The families of policy objectives, `(policy, batch) -> loss` to be minimized, and of aggregators of losses."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.parts import Part

Losses = Float[Tensor, "batch *time"]
Mask = Bool[Tensor, "batch *time"]
Normalizer = float | int | Tensor | None


class PolicyObjective(Part):
    """Base class of the losses that the policy minimizes. Gradient flows through `policy` only.

    Attributes:
        level: Whether the loss is one number per token (batch time) or one per response (batch).
        whole_groups: Whether the loss of a response depends on its siblings, so that the loop never cuts a group.
        smallest_group: Responses of one prompt below which it gives no signal.
        is_policy_gradient: Whether its gradient is that of REINFORCE while the policy is the one that acted.
        on_policy_only: Whether it is wrong for responses of another policy, since no ratio makes up for the difference.
    """

    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    anchored: ClassVar[bool] = True  # unless it says otherwise: too many log-probs cost time, too few a wrong ratio
    level: ClassVar[Literal["token", "response"]] = "token"
    whole_groups: ClassVar[bool] = False
    smallest_group: ClassVar[int] = 1
    is_policy_gradient: ClassVar[bool] = False
    on_policy_only: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch ..."]:
        """Return the loss of every response token (0 where `response_mask` is False), or of every response."""


class Aggregator(Part):
    """Base class of the reductions from the losses of tokens to one number.

    The loop sums `count` over the microbatches and ranks of an optimizer step and passes it as `normalizer`; the
    results of the pieces then sum to that of the whole step.
    """

    @abstractmethod
    def count(self, mask: Mask) -> Int[Tensor, ""]:
        """Return the number that the losses under this mask are divided by if nothing is added to them."""

    @abstractmethod
    def __call__(self, per_token: Losses, mask: Mask, *, normalizer: Normalizer = None) -> Float[Tensor, ""]:
        """Reduce the losses to one number; `normalizer` is the count over the whole optimizer step."""


def _nothing(by: str) -> None:
    """Accept any configuration: the default check of an objective without options."""


@dataclass(frozen=True)
class RatioObjective(PolicyObjective):
    """Base of the objectives of a ratio: the class names a function, and its fields are the options.

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

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        """Whether the anchor is `old_log_probs`."""
        return self.anchor == "old_log_probs"

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch ..."]:
        """Return the loss of every response token, or of every response."""
        anchor, advantages = batch.require(self.anchor, "advantages", by=type(self).__name__)
        return self.function(policy.log_probs, anchor, advantages, batch.response_mask, **options_of(self))


def options_of(part: Any) -> dict[str, Any]:
    """Return the fields of a component as keyword arguments for the function that it calls."""
    return {field.name: getattr(part, field.name) for field in fields(part)}
