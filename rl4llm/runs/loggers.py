"""Loggers that go on: a resumed run continues `metrics.csv` and the TensorBoard events where its checkpoint stood."""

import csv
import os
import sys
from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch import Tensor

_KEY = "logged"


class MetricsFile(ExperimentWriter):
    """A `metrics.csv` that is appended to, also by a resumed run, and replaced atomically when columns are added.

    Args:
        log_dir: Folder of the file.
        keep: Continue an existing file; otherwise it is deleted.
    """

    def __init__(self, log_dir: str, *, keep: bool) -> None:
        super().__init__(log_dir)
        self.rows = 0
        if not os.path.isfile(self.metrics_file_path):
            return
        if not keep:
            os.remove(self.metrics_file_path)
            return
        names, rows = self.read()
        self.metrics_keys, self.rows = names, len(rows)

    def read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return the columns and rows on disk, without an unfinished last line."""
        with open(self.metrics_file_path, newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values()]
            return list(reader.fieldnames or []), rows

    def save(self) -> None:
        """Write the rows that were logged since the last call."""
        written = len(self.metrics)
        super().save()
        self.rows += written

    def cut(self, rows: int) -> list[dict[str, float]]:
        """Drop everything after the first `rows` rows, and return those that stay."""
        if not os.path.isfile(self.metrics_file_path):
            return []
        names, found = self.read()
        self._replace(names, found[:rows])
        self.metrics, self.rows = [], len(found[:rows])
        return [{name: float(value) for name, value in row.items() if value != ""} for row in found[:rows]]

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(fieldnames, self.read()[1])

    def _replace(self, names: list[str], rows: list[dict[str, str]]) -> None:
        partial = f"{self.metrics_file_path}.partial"
        with open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.metrics_file_path)

    def _check_log_dir_exists(self) -> None:
        """Lightning's writer deletes the file here; this one decides in its constructor."""


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger, except that it can continue a file.

    Args:
        keep: Continue the run's `metrics.csv` instead of starting it anew.
        options: Those of `CSVLogger`.
    """

    def __init__(self, *, keep: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.keep = keep

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        """The file behind the logger."""
        if not isinstance(self._experiment, MetricsFile):
            self._experiment = MetricsFile(self.log_dir, keep=self.keep)
        return self._experiment


class Logbook(Callback):
    """Put the place of the loggers into every checkpoint, and bring the loggers back to it when a run resumes.

    A checkpoint is often written after a rollout batch and before its metrics reach the loggers. Those metrics travel
    in the checkpoint, and the resumed run logs them. Metrics that a rollout batch does not log itself are not logged
    again with their last value, as Lightning would do.
    """

    def __init__(self) -> None:
        self.within_batch, self.unlogged = False, False
        self.next_step: int | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Forget the metrics of the batch before."""
        self.within_batch = self.unlogged = False
        self._set_step(trainer)
        results = trainer.fit_loop.epoch_loop._results
        for key in [key for key, metric in results.items() if metric.meta.on_step and not metric.meta.on_epoch]:
            del results[key]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """From here to the end of the batch, checkpoints hold metrics that no logger has seen."""
        self.within_batch = self.unlogged = True

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Before an evaluation, the metrics of the batch have reached the loggers."""
        self.unlogged = False
        self._set_step(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The last batch of an epoch is complete."""
        self.within_batch = self.unlogged = False

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the logs to disk and note how far they go."""
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            logger.save()
        file = _metrics_file(trainer)
        checkpoint[_KEY] = {
            "rows": file.rows if file is not None else 0,
            "next_step": step + int(self.within_batch),
            "unlogged": self._unlogged(trainer),
        }

    def _unlogged(self, trainer: Trainer) -> dict[str, float]:
        if not self.unlogged or not trainer._logger_connector.should_update_logs:
            return {}
        metrics = batch_metrics(trainer)
        return {**metrics, "epoch": trainer.current_epoch} if metrics else {}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop what was logged after the checkpoint, and log what it holds back."""
        saved = checkpoint.get(_KEY)
        if saved is None:
            return
        self.next_step, unlogged = saved["next_step"], saved["unlogged"]
        step = saved["next_step"] - int(bool(unlogged))
        file = _metrics_file(trainer)
        kept = [] if file is None else file.cut(saved["rows"])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                _restart(logger, step, kept)
            if unlogged:
                logger.log_metrics(unlogged, step=step)
                logger.save()

    def _set_step(self, trainer: Trainer) -> None:
        """After a resume, Lightning's count of batches may be one off; set it once."""
        if self.next_step is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped, self.next_step = self.next_step, None


def batch_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that the rollout batch has logged so far, as plain numbers."""
    metrics: Mapping[str, Any] = trainer._logger_connector.metrics["log"]
    return {sys.intern(n): float(v.item() if isinstance(v, Tensor) else v) for n, v in metrics.items()}


def _metrics_file(trainer: Trainer) -> MetricsFile | None:
    for logger in trainer.loggers:
        if isinstance(logger, ResumableCSVLogger) and trainer.is_global_zero:
            return logger.experiment
    return None


def _restart(logger: TensorBoardLogger, step: int, kept: list[dict[str, float]]) -> None:
    """Tell TensorBoard to discard events from `step` on, and write those again that the checkpoint includes."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer = logger.experiment._get_file_writer()
    writer.add_event(Event(step=step, file_version="brain.Event:2"))
    writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
    for row in kept:
        if row["step"] >= step:
            metrics = {name: value for name, value in row.items() if name != "step"}
            logger.log_metrics(metrics, step=int(row["step"]))
    logger.experiment.flush()
