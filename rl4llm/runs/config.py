"""`RunConfig`: a run's configuration in its folder, written in one move and only once it is known to fit."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from rl4llm.runs.atomic import write_atomically


class RunConfig(SaveConfigCallback):
    """Write `config.yaml` into the run folder.

    A run that goes on writes it when training begins: a flag that does not fit the checkpoint ends the run before, and
    the configuration of the run stays as it was.

    Args:
        goes_on: Whether the run goes on from a checkpoint in the same folder.
        arguments: Those of `SaveConfigCallback`.
    """

    def __init__(self, *arguments: Any, goes_on: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.goes_on = goes_on

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration of a new run."""
        if not self.goes_on and not self.already_saved:
            self._write(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Write the configuration of a run that goes on, whose checkpoint fits."""
        if not self.already_saved:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.log_dir  # all ranks ask together
        if folder is None:
            return
        self.already_saved = True
        if trainer.is_global_zero:
            Path(folder).mkdir(parents=True, exist_ok=True)
            text = self.parser.dump(self.config, skip_unset=False)
            write_atomically(Path(folder) / self.config_filename, text.encode())
