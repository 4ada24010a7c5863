"""`Tether`: critics blended with the mean of a prompt's other responses, by how much better they have been."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.critic_values import critic_std
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.blending import blend_coefficient, check_blend, position_bins, spread_bins
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.siblings import check_siblings, leave_one_out_mean
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec, with_values
from rl4llm.masked import keep, spread

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy


@dataclass(frozen=True)
class Tether(WrappingSpec):
    """Critics blended with the mean of a prompt's other responses (arXiv:2608.16739). See [blend_coefficient][].

        bₜ = (1 − ρ) B + ρ V(sₜ)          B the leave-one-out mean of the group's scores

    ρ begins at 0 (RLOO) and is fitted again after each batch, so that no response has a say in its own baseline;
    nothing is fitted while the critics warm up. It is meant for `GAE(lam=1.0)`, where the advantage is R − bₜ; below 1
    the values of later tokens carry B too. The critics learn from their own values, and gates read their own spread.

    Args:
        critics: The critics that are blended.
        decay: Weight of the earlier ρ, in [0, 1]: 0.95 in the paper, 0.9 in its authors' code; 1 keeps ρ = 0.
        ridge: What holds ρ at 0 where critics say almost what the mean does, at least 0.
        clip: Whether each fit is kept in [0, 1].
        bins: How many ρ there are, each for a part of the tokens; 1 is the paper's first choice.
        width: What the parts are: stretches of so many positions of a response, the last with all that is further back
            (1,024 in the paper), or, if None, equally filled bins of the critics' spread σₜ, so that the critics are
            believed where they agree (ours).
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009
    decay: float = 0.95
    ridge: float = 0.0
    clip: bool = True
    bins: int = 1
    width: int | None = None
    sees_scores: ClassVar[bool] = True
    paper: ClassVar[str] = "2608.16739"

    def __post_init__(self) -> None:
        check_blend("Tether", self.decay, self.ridge)
        check_at_least("Tether", 1, bins=self.bins, **({} if self.width is None else {"width": self.width}))
        if self.width is not None and self.bins == 1:
            raise UsageError(f"Tether: width={self.width} has no effect with bins=1; set bins to 2 or more.")

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if a response has no siblings, or as any source around critics."""
        check_siblings("Tether", responses_per_prompt)
        super().check(source, responses_per_prompt)

    def build(self, source: "ModelSource", policy: "Policy") -> "TetherSource":
        """Build the critics with the blend around them."""
        return TetherSource(self.critics.build(source, policy), self)


class TetherSource(WrappingSource):
    """Values between the leave-one-out mean of the scores and those of another source.

    Args:
        inner: The other one.
        choice: How ρ is fitted.
    """

    reads_scores: ClassVar[bool] = True

    def __init__(self, inner: ValueSource, choice: Tether) -> None:
        super().__init__(inner)
        self.choice = choice
        self.rhos = torch.zeros(choice.bins, dtype=torch.float64)

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with bₜ as `values`, by the ρ of earlier batches."""
        judged = self.inner.values(batch, context)
        (values,) = judged.require("values", by="Tether")
        baselines = spread(self._baselines(judged).to(values.dtype), judged.response_mask)
        for index, rho in enumerate(self.rhos if self.choice.bins > 1 else ()):
            context.log(f"blend_{index}", rho)
        context.log("blend", self.rhos)
        rhos = self.rhos.to(values)[self._bins(judged)]
        return with_values(judged, torch.lerp(baselines, keep(values, judged.response_mask), rhos))

    def observe(self, judged: RolloutBatch, context: ValueContext) -> None:
        """Fit ρ again, unless the critics are warming up."""
        if context.warming_up:
            return
        (values,) = judged.require("values", by="Tether")
        baselines, bins, choice = self._baselines(judged), self._bins(judged), self.choice
        for index in range(choice.bins):
            self.rhos[index] = blend_coefficient(
                judged.outcomes,
                baselines,
                values,
                judged.response_mask & (bins == index),
                previous=self.rhos[index].item(),
                decay=choice.decay,
                ridge=choice.ridge,
                clip=choice.clip,
            ).item()

    def _bins(self, judged: RolloutBatch) -> Int[Tensor, "batch time"]:
        if self.choice.bins == 1:
            return torch.zeros_like(judged.response_mask, dtype=torch.long)
        if self.choice.width is not None:
            return position_bins(judged.response_mask, bins=self.choice.bins, width=self.choice.width)
        (critic_values,) = judged.require("critic_values", by="Tether(bins)")
        return spread_bins(critic_std(critic_values), judged.response_mask, bins=self.choice.bins)

    def _baselines(self, batch: RolloutBatch) -> Float[Tensor, " batch"]:
        return leave_one_out_mean(batch.outcomes, batch.group_ids)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return ρ for checkpoints."""
        return {"rho": self.rhos.clone()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore ρ from a checkpoint."""
        self.rhos.copy_(state["rho"])
