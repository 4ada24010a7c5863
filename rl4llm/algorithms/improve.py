"""Improving: the only place that backpropagates and steps. One learner per model: the policy, each critic."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from rl4llm.algorithms.deal import Minibatch
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.meter import Meter, scalar
from rl4llm.algorithms.microbatches import Averaging, LossFunction
from rl4llm.algorithms.runtime import Runtime
from rl4llm.algorithms.updates import Updates

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Learner:
    """A model, its optimizer and how it steps.

    Args:
        name: Under which it is logged, and by which its optimizer is found.
        module: The model.
        optimizer: Its optimizer, as the Trainer wrapped it.
        schedule: Its learning rate, stepped once per rollout batch on which it learned.
        updates: Epochs, minibatches, clip-norm and token budget.
        averaging: From the terms of its loss to a scalar.
    """

    name: str
    module: nn.Module
    optimizer: Any
    schedule: LRScheduler
    updates: Updates
    averaging: Averaging


def improve(
    runtime: Runtime,
    learner: Learner,
    minibatches: Iterable[Minibatch],
    losses: LossFunction,
    meter: Meter,
    health: Health,
    *,
    counted: bool,
    prepare: Callable[[Minibatch], Minibatch] = lambda minibatch: minibatch,
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Step a model once per minibatch.

        L = Σ over ranks Σ over microbatches Σ over terms aggregate(term, mask, normalizer = count of the minibatch)

    `trainer.global_step` counts rollout batches: of all optimizer steps on one, the Trainer counts the last one of the
    counted learner. A step whose loss or gradient is not finite is skipped on all ranks. No gradient is left behind.

    Args:
        runtime: Backward passes, steps and ranks.
        learner: What steps.
        minibatches: One per optimizer step; see [deal][rl4llm.algorithms.deal.deal].
        losses: From rows to the terms of the loss, per token or per response.
        meter: Receives the gradient's norm.
        health: Counts skipped steps and ends a run that only skips.
        counted: Whether the Trainer counts this learner's last step.
        prepare: From each minibatch to that on which the step is made, just before it.
        before_step: Called before each step, and once more if it is done again with smaller microbatches.
        after_step: Called after each step that was not skipped.
    """
    minibatches = list(minibatches)
    for index, dealt in enumerate(minibatches):
        minibatch = prepare(dealt)
        loss = _accumulate(runtime, learner, minibatch, losses, meter, health, before_step)
        norm = _clip(learner)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not finite:
            learner.optimizer.zero_grad()
            what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
            health.skip(learner.name, what, minibatch.rows)
        else:
            meter.add(f"grad_norm/{learner.name}", scalar(norm))
        runtime.step_optimizer(learner.optimizer, counted and index == len(minibatches) - 1)
        learner.optimizer.zero_grad()  # gradients take no memory while others learn
        if finite:
            after_step()
            health.stepped(learner.name)
    learner.schedule.step()
    health.check_weights(learner.name, learner.module, runtime.gather)


def _accumulate(
    runtime: Runtime,
    learner: Learner,
    minibatch: Minibatch,
    losses: LossFunction,
    meter: Meter,
    health: Health,
    before_step: Callable[[], None],
) -> float:
    """Gradients of a minibatch, summed over microbatches and ranks; its loss."""
    before = meter.copy()
    while True:
        before_step()
        budget = health.budget(learner.name, learner.updates.budget(minibatch.rows))
        learner.optimizer.zero_grad()
        try:
            loss = _backward_all(runtime, learner, minibatch, losses, budget)
            break
        except RuntimeError as error:
            if runtime.lockstep or not any(word in str(error).lower() for word in _MEMORY):
                raise
            health.halve_budget(learner.name, budget, error)
            meter.restore(before)
    runtime.add_gradients(learner.module)
    return float(runtime.sum(loss.reshape(1).cpu())[0])


def _backward_all(
    runtime: Runtime, learner: Learner, minibatch: Minibatch, losses: LossFunction, max_tokens: int
) -> Tensor:
    total = torch.zeros((), device=minibatch.rows.response_mask.device)
    for _, piece in minibatch.pieces(runtime.rank, max_tokens):
        loss = learner.averaging(losses(piece), piece, minibatch.counts)
        runtime.backward(loss)
        total = total + loss.detach()
    return total


def _clip(learner: Learner) -> float:
    """Clip the gradient of the learner's model; its norm before that."""
    limit = learner.updates.max_grad_norm
    parameters = [p for p in learner.module.parameters() if p.grad is not None]
    if not parameters:
        return 0.0
    norm: Any = nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def nth(things: Any, index: int) -> Any:
    """Return one optimizer or schedule of a module: Lightning gives one alone, and several as a list."""
    return things[index] if isinstance(things, list) else things
