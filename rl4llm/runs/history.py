"""`History`: what a run showed, step by step, kept in memory for its curves and its summary."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class History(Callback):
    """Collects every logged number by rollout batch: training at each step, validation when it ran, step 0 included."""

    def __init__(self) -> None:
        self.training: list[tuple[int, dict[str, float]]] = []
        self.validation: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Keep the step's numbers."""
        numbers = _numbers(trainer)
        self.training.append((trainer.global_step, {n: v for n, v in numbers.items() if not n.startswith("val/")}))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the evaluation. The Trainer's check before training is the one at step 0, and is logged as such."""
        numbers = {name: value for name, value in _numbers(trainer).items() if name.startswith("val/")}
        self.validation.append((trainer.global_step, numbers))
        if trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
