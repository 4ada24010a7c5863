"""`WrappingSpec` and `WrappingSource`: base classes of value sources that wrap another value source."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics.base import Survey, ValueContext, ValueSource, ValueSpec

if TYPE_CHECKING:
    from rl4llm.models import ModelSource


class WrappingSpec(ValueSpec):
    """Base of the specs that wrap another spec, with the requirements of the wrapped one.

    Attributes:
        critics: The wrapped spec, a field of every subclass.
    """

    critics: ValueSpec
    values_states: ClassVar[bool] = False

    @property
    def needs_prompts(self) -> bool:  # type: ignore[override]
        """Return what the wrapped spec requires."""
        return self.critics.needs_prompts

    @property
    def spreads_returns(self) -> bool:  # type: ignore[override]
        """Return what the wrapped spec requires."""
        return self.critics.spreads_returns

    @property
    def judges_cuts(self) -> bool:  # type: ignore[override]
        """Return what the wrapped spec requires."""
        return self.critics.judges_cuts

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if the critics cannot work, or are trained with the policy's loss."""
        if self.critics.shares_trunk:
            raise UsageError(
                f"{type(self).__name__}: critics={type(self.critics).__name__} is trained with the policy's loss, "
                "so nothing can stand around it; take MiniCritics or SymmetricCritic."
            )
        self.critics.check(source, responses_per_prompt)

    def check_context(self, tokens: int) -> None:
        """Raise if the critics' context is too short."""
        self.critics.check_context(tokens)


class WrappingSource(ValueSource):
    """Value source around another one, which is trained with the values that it gave itself.

    A class below it says in `values` what the estimator gets, and may look in `observe` at what the other one said.

    Args:
        inner: The other one.
    """

    def __init__(self, inner: ValueSource) -> None:
        super().__init__()
        self.inner = inner

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        """The learners of the wrapped source."""
        return self.inner.learners

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Train the wrapped source with its own values in the batch, which are read before it learns."""
        judged = self.inner.values(batch, context)
        self.observe(judged, context)
        self.inner.learn(judged, context)

    def observe(self, judged: RolloutBatch, context: ValueContext) -> None:
        """Observe the batch with the wrapped source's values before it learns; does nothing by default."""

    def believes(self, batch: RolloutBatch, context: ValueContext) -> Bool[Tensor, " batch"]:
        """Return the answer of the wrapped source."""
        return self.inner.believes(batch, context)

    def prepare(self, survey: Survey) -> None:
        """Prepare the wrapped source."""
        self.inner.prepare(survey)

    def priorities(self, uids: Tensor) -> Tensor | None:
        """Return the answer of the wrapped source."""
        return self.inner.priorities(uids)


def with_values(judged: RolloutBatch, values: Float[Tensor, "batch time"]) -> RolloutBatch:
    """Return the batch with other `values` and `critic_values` shifted along, so that their spread is unchanged."""
    (before,) = judged.require("values", by="with_values")
    critics = judged.critic_values
    return judged.replace(values=values, critic_values=None if critics is None else critics - before + values)
