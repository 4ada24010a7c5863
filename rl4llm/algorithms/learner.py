"""`Learner`: the only place that backpropagates and steps. One learner a model: the policy, each critic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.microbatches import LossFunction, accumulate_gradients, loss_counts, units
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.objectives import Aggregator

if TYPE_CHECKING:
    from rl4llm.algorithms.policy_gradient import PolicyGradient


@dataclass(frozen=True)
class Learner:
    """A model, its optimizer and how often it steps.

    Args:
        name: Under which it is logged.
        module: The model.
        optimizer: Its optimizer, as the Trainer wrapped it.
        schedule: Its learning rate, stepped once a rollout batch on which it learned.
        updates: Epochs, minibatches, clip-norm.
        aggregator: From losses to a scalar.
        whole_groups: Whether the responses to one prompt are never separated.
    """

    name: str
    module: nn.Module
    optimizer: LightningOptimizer
    schedule: LRScheduler
    updates: Updates
    aggregator: Aggregator
    whole_groups: bool = False

    def minimize(
        self,
        loop: "PolicyGradient",
        batch: RolloutBatch,
        losses: LossFunction,
        meter: Meter,
        *,
        counted: bool,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Step on the batch, `updates.steps` times.

        `trainer.global_step` counts rollout batches: of all optimizer steps on one, only the last of the counted
        learner goes through the Trainer's counter.
        """
        unit = units(batch, self.whole_groups)
        parts = list(self.updates.cut(int(unit.max()) + 1 if len(batch) else 0, loop.shuffle))
        for index, chosen in enumerate(parts):
            chosen = chosen.to(unit.device)
            part = batch.select(torch.isin(unit, chosen) if self.whole_groups else chosen)
            counts = {
                axes: loop.sum_over_ranks(n) for axes, n in loss_counts(self.aggregator, part.response_mask).items()
            }
            self.optimizer.zero_grad()
            accumulate_gradients(
                part,
                losses,
                self.aggregator,
                max_tokens=self.updates.microbatch_tokens,
                counts=counts,
                whole_groups=self.whole_groups,
                backward=lambda loss, last: self._backward(loop, loss, last),
            )
            meter.add(f"grad_norm/{self.name}", self._clip())
            if counted and index == len(parts) - 1:
                self.optimizer.step()
            else:
                loop.trainer.strategy.optimizer_step(self.optimizer.optimizer, lambda: None)
            after_step()
        self.schedule.step()

    def _backward(self, loop: "PolicyGradient", loss: Tensor, last: bool) -> None:
        # Gradients are averaged over ranks; the loss is divided by counts summed over ranks, so it is scaled back.
        with self.optimizer.toggle_model(sync_grad=last):
            loop.manual_backward(loss * loop.trainer.world_size)

    def _clip(self) -> Tensor:
        limit = self.updates.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), float("inf") if limit is None else limit)
        return norm.detach().reshape(1)
