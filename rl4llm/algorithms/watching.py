"""`BatchCallback`: a Trainer callback that is given every rollout batch after the models have learned from it."""

from collections.abc import Callable
from typing import Any

from lightning import Callback
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.data.task import PromptBatch

LogProbs = Callable[[RolloutBatch], Tensor]


class BatchCallback(Callback):
    """A callback that reads rollout batches with their values, advantages and gates.

    Subclass it to read what a run learns from, and pass it to the Trainer like any other callback.

    Example:
        >>> class Lengths(BatchCallback):
        ...     def on_rollout_batch(self, module, batch, prompts, log_probs):
        ...         print(module.trainer.global_step, batch.lengths.float().mean())
    """

    def on_rollout_batch(self, module: Any, batch: RolloutBatch, prompts: PromptBatch, log_probs: LogProbs) -> None:
        """Read a batch. Every rank calls this with the same arguments, once per rollout batch that was learned from.

        Args:
            module: The module that trains; `module.trainer.global_step` counts this batch already.
            batch: All rows of the step, as the policy and the critics learned from them.
            prompts: The global batch of prompts; group ids are places in it, except for replayed responses.
            log_probs: Gives the log-probs of rows under the policy as it is after the update. All ranks must call it
                together.
        """


def show_batch(module: Any, batch: RolloutBatch, prompts: PromptBatch, log_probs: LogProbs) -> None:
    """Give a batch to every `BatchCallback` of the Trainer."""
    for callback in module.trainer.callbacks:
        if isinstance(callback, BatchCallback):
            callback.on_rollout_batch(module, batch, prompts, log_probs)
