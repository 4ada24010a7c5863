"""`ExplainedVarianceSwitch`: critics while they explain something, and the mean of the scores while they do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_choice, check_interval
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.blending import trusted_mean
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.siblings import leave_one_out_mean
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec, with_values
from rl4llm.masked import keep, spread
from rl4llm.value_diagnostics import explained_variance

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy


@dataclass(frozen=True)
class ExplainedVarianceSwitch(WrappingSpec):
    """Critics that are used while they explain the scores (EVPO, arXiv:2604.19485). See [trusted_mean][].

        V(sₜ)   if EV = 1 − Var(R − V)/Var(R) > threshold,   else the mean score of the prompt's other responses

    Variances are over the trained tokens of the rollout batch, with the score R at every token of its response: the
    return at γ = λ = 1. EV does not see a constant offset of the critics. The switch does not touch what critics learn.

    Args:
        critics: The critics that are switched.
        threshold: Above which they are used; −∞: always, ∞: never.
        lag: Whose EV decides: that of the batch itself (0, as the paper), where a response has a say in its own
            baseline, or that of the batch before (1), which counts as 0 at the first.
        per_critic: Whether each critic is switched by its own EV, and the value is the mean over those that are used.
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009
    threshold: float = 0.0
    lag: Literal[0, 1] = 0
    per_critic: bool = False
    sees_scores: ClassVar[bool] = True
    paper: ClassVar[str] = "2604.19485"

    def __post_init__(self) -> None:
        check_interval("ExplainedVarianceSwitch", threshold=self.threshold)
        check_choice("ExplainedVarianceSwitch", (0, 1), lag=self.lag)

    def build(self, source: "ModelSource", policy: "Policy") -> "ExplainedVarianceSwitchSource":
        """Build the critics with the switch around them."""
        return ExplainedVarianceSwitchSource(self.critics.build(source, policy), self)


class ExplainedVarianceSwitchSource(WrappingSource):
    """Values of another source where they explain the scores, and the leave-one-out mean where they do not.

    Args:
        inner: The other one.
        choice: When it is used.
    """

    reads_scores: ClassVar[bool] = True

    def __init__(self, inner: ValueSource, choice: ExplainedVarianceSwitch) -> None:
        super().__init__(inner)
        self.choice = choice
        self._explained: Tensor | None = None  # of the last batch that was learned from

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with the critics' values or with the mean."""
        judged = self.inner.values(batch, context)
        critic_values = self._switched(judged)
        explained = self._explained_before(critic_values) if self.choice.lag else self._explain(judged)
        context.log("switch_explained_variance", explained)
        context.log("used_share", (explained > self.choice.threshold).float())
        baselines = leave_one_out_mean(judged.outcomes, judged.group_ids).to(critic_values.dtype)
        options = {"threshold": self.choice.threshold}
        mean = trusted_mean(critic_values, explained, spread(baselines, judged.response_mask), **options)
        return with_values(judged, keep(mean, judged.response_mask))

    def observe(self, judged: RolloutBatch, context: ValueContext) -> None:
        """Store the explained variance of the values for the next batch."""
        self._explained = self._explain(judged)

    def _switched(self, judged: RolloutBatch) -> Float[Tensor, "critic batch time"]:
        """Return what is switched: each critic, or their aggregate."""
        if self.choice.per_critic:
            (critic_values,) = judged.require("critic_values", by="ExplainedVarianceSwitch(per_critic=True)")
            return critic_values
        (values,) = judged.require("values", by="ExplainedVarianceSwitch")
        return values[None]

    def _explain(self, judged: RolloutBatch) -> Float[Tensor, " critic"]:
        mask = judged.scored_mask
        returns = spread(judged.outcomes, mask)
        return torch.stack([explained_variance(values, returns, mask) for values in self._switched(judged)])

    def _explained_before(self, critic_values: Tensor) -> Float[Tensor, " critic"]:
        return (
            critic_values.new_zeros(len(critic_values))
            if self._explained is None
            else self._explained.to(critic_values.device)
        )

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the explained variance of the last batch for checkpoints; empty before the first."""
        return {"explained": torch.zeros(0) if self._explained is None else self._explained.cpu()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the explained variance from a checkpoint."""
        explained = state["explained"]
        self._explained = explained if len(explained) else None
