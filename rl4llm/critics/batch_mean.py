"""`BatchMean`: a control for studies of critics, whose values do not depend on prompt or prefix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics.base import ValueContext, ValueSpec
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec, with_values
from rl4llm.masked import masked_mean

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy


@dataclass(frozen=True)
class BatchMean(WrappingSpec):
    """Critics whose value is replaced by its mean over the rollout batch, while their spread stays.

        V(sₜ) = v̄ = mean over all trained tokens of V̄        Vₘ(sₜ) ← Vₘ(sₜ) − V̄(sₜ) + v̄

    Against the same critics as they are, it shows what the values are worth: the scale is kept, and gates and filters
    read the same spread. The critics learn as ever.

    Args:
        critics: The critics that are silenced.
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if the critics cannot work, or are not the kind whose values can be replaced."""
        if self.critics.sees_scores or isinstance(self.critics, BatchMean):
            raise UsageError(
                f"BatchMean: critics={type(self.critics).__name__} has no critics of its own to compare with; "
                "take MiniCritics or SymmetricCritic."
            )
        super().check(source, responses_per_prompt)

    def build(self, source: "ModelSource", policy: "Policy") -> "BatchMeanSource":
        """Build the critics with their values replaced."""
        return BatchMeanSource(self.critics.build(source, policy))


class BatchMeanSource(WrappingSource):
    """Value source that gives the mean of another source's values at every token."""

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with the mean as `values` and `critic_values` shifted so that their spread is unchanged."""
        judged = self.inner.values(batch, context)
        (values,) = judged.require("values", by="BatchMean")
        mean = masked_mean(values, batch.response_mask).to(values.dtype)
        return with_values(judged, mean.expand_as(values).clone())
