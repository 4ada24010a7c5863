"""`CriticEnsemble`: M critics, each trained on its own shard of the responses, and their aggregate as V."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.critics.base import ValueContext, ValueSource
from rl4llm.critics.losses import ValueLoss
from rl4llm.critics.shards import learns_from
from rl4llm.critics.value_model import ValueModel
from rl4llm.masked import at_least_float32, masked_mean

Shards = Callable[[Int[Tensor, " batch"], int], Int[Tensor, " batch"]]
Aggregate = Callable[[Float[Tensor, "critic batch time"]], Float[Tensor, "batch time"]]


class CriticEnsemble(ValueSource):
    """Value source of M independently trained value models.

        V(sₜ) = aggregate over m of Vₘ(sₜ; φₘ)        L(φ) = Σₘ E over (sₜ, Rₜ) in shard m of loss(zₘ(sₜ; φₘ), Rₜ)

    Every critic judges all responses; each learns from its own shard of them. The loss is that of the head on its
    outputs z, or the one given on the values that the head reads from them. E is the mean over tokens; for critics
    that read the prompt alone, it is the mean over responses of the mean over their tokens, since such a response has
    one value and is to count once, however long it is.

    Args:
        critics: The value models.
        shards: Which critic learns from which response (`group_shards`, `prompt_shards`, `shared_shards`).
        aggregate: From the critics' values to the estimator's (`critic_mean`, `critic_min`, `critic_first`).
        loss: Value loss of one token; None for the head's own.
    """

    def __init__(
        self, critics: list[ValueModel], *, shards: Shards, aggregate: Aggregate, loss: ValueLoss | None = None
    ) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)
        self.shards, self.aggregate, self.loss = shards, aggregate, loss

    def __len__(self) -> int:
        return len(self.critics)

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        """One learner per critic: `critic_0`, `critic_1`, ..."""
        return {f"critic_{index}": critic for index, critic in enumerate(self.critics)}

    def forward(self, batch: RolloutBatch) -> Float[Tensor, "critic batch time"]:
        """Return the values of every critic for every response."""
        return torch.stack([critic(batch) for critic in self.critics])

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with `critic_values`, their aggregate as `values`, and a predicted `return_spread`.

        Each critic's spread is of the return as it sees it; theirs together is √(mean over m of s²ₘ), so that
        `return_spread`² + `critic_std`² is the variance of all their distributions mixed.
        """
        critic_values, *spreads = context.map(self._read_all, batch)
        judged = batch.replace(critic_values=critic_values, values=self.aggregate(critic_values))
        if not spreads:
            return judged
        return judged.replace(return_spread=at_least_float32(spreads[0]).square().mean(0).sqrt().to(spreads[0].dtype))

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Train each critic on its own shard; `values` of the batch become that critic's own, for value clipping."""
        critic_values, _ = batch.require("critic_values", "returns", by="CriticEnsemble.learn")
        batch = batch if self.loss is None else self.loss.prepare(batch)
        shards = self.shards(batch.group_ids, len(self))
        for index, name in enumerate(self.learners):
            own = batch.replace(values=critic_values[index]).select(learns_from(shards, index))
            context.minimize(name, own, partial(self._losses, index))

    def _read_all(self, rows: RolloutBatch) -> Float[Tensor, "kind critic batch time"]:
        """Compute every critic's values and, if the heads predict them, spreads of the return, in one pass each."""
        return torch.stack([critic.readings(rows) for critic in self.critics], dim=1)  # type: ignore[operator]

    def _losses(self, index: int, rows: RolloutBatch) -> Float[Tensor, "*axes"]:
        """Return one loss per token, or one per response if the critic has one value per response."""
        critic: Any = self.critics[index]
        outputs = critic.outputs(rows)
        if self.loss is None:
            losses = critic.head.choice.loss(outputs, rows)
        else:
            losses = self.loss(critic.read(outputs, rows), rows)
        return masked_mean(losses, rows.response_mask, dim=1) if critic.inputs == "prompt" else losses
