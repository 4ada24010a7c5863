"""`History`: every metric that a run logged, kept in memory for its curves and its summary."""

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer

from rl4llm.runs.loggers import batch_metrics


class History(Callback):
    """Collect the logged metrics of each rollout batch and of each evaluation, the one before training included.

    The history is part of every checkpoint, so the curves and the summary of a resumed run start where the run did.
    """

    def __init__(self) -> None:
        self.training: list[tuple[int, dict[str, float]]] = []
        self.validation: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Keep the metrics of the rollout batch."""
        self.training.append((trainer.global_step, batch_metrics(trainer)))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the evaluation. The one before training is also written to the loggers, as step 0."""
        seen = trainer.callback_metrics.items()
        metrics = {sys.intern(name): float(value) for name, value in seen if name.startswith("val/")}
        self.validation = [entry for entry in self.validation if entry[0] != trainer.global_step]
        self.validation.append((trainer.global_step, metrics))
        if trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
                logger.save()

    def state_dict(self) -> dict[str, Any]:
        """Plain values, so that a checkpoint can be loaded without unpickling code."""
        return {name: [[step, metrics] for step, metrics in getattr(self, name)] for name in ("training", "validation")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of the run that saved the checkpoint."""
        for name in ("training", "validation"):
            setattr(self, name, [(int(step), dict(metrics)) for step, metrics in state_dict[name]])
