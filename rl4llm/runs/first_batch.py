"""`FirstBatch`: after the first rollout batch of a run, its seconds and memory, and what the whole run will take."""

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from rl4llm.progress import fitted
from rl4llm.wording import counted


class FirstBatch(Callback):
    """Print once what the first rollout batch took, and what the rest of the run will take.

        rest = batches left · seconds of the batch + evaluations left · seconds of the latest evaluation

    A resumed run says the same of what is left. Nothing is said under `fast_dev_run`.
    """

    def __init__(self) -> None:
        self.began = self.evaluating = 0.0
        self.evaluation: float | None = None
        self.said = False

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of an evaluation."""
        self.evaluating = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop it."""
        self.evaluation = time.perf_counter() - self.evaluating

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Start the clock of a rollout batch."""
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Say it after the first batch."""
        if self.said or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.said, seconds, peak = True, time.perf_counter() - self.began, peak_bytes(module.device)
        line = first_line(seconds, peak, batches_left(trainer), evaluations_left(trainer), self.evaluation)
        module.print(fitted(line, sys.stdout))


def first_line(
    seconds: float, peak: int, batches: int | None, evaluations: int | None, evaluation: float | None
) -> str:
    """Return the line about the first batch.

    Args:
        seconds: Of the batch.
        peak: Most bytes of memory so far.
        batches: Batches left; None if training has no end.
        evaluations: Evaluations left; None if training has no end.
        evaluation: Seconds of one evaluation; None if none was made yet.

    Example:
        >>> first_line(2.0, 3 * 2**29, 30, 2, 15.0)
        'first rollout batch: 2.0 s, peak memory 1.50 GiB; 30 more with 2 evaluations will take about 1.5 minutes'
    """
    said = f"first rollout batch: {seconds:.1f} s, peak memory {peak / 2**30:.2f} GiB"
    if batches is None:
        return f"{said}; training has no end"
    many, rest = "", batches * seconds
    if evaluations and evaluation is not None:
        many, rest = f" with {counted(evaluations, 'evaluation')}", rest + evaluations * evaluation
    elif evaluations:
        many = f" (and {counted(evaluations, 'evaluation')}, not timed yet and not counted)"
    return f"{said}; {batches:,} more{many} will take about {duration(rest)}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits.

    Example:
        >>> duration(1), duration(20), duration(300), duration(9000)
        ('1 second', '20 seconds', '5.0 minutes', '2.5 hours')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else counted(round(seconds), "second")


def batches_left(trainer: Trainer) -> int | None:
    """Return how many rollout batches are left; None if training has no end."""
    total = trainer.estimated_stepping_batches
    return None if total == float("inf") else max(0, int(total) - trainer.global_step)


def evaluations_left(trainer: Trainer) -> int | None:
    """Return how many evaluations are left, the one at the end of the run included; None if training has no end."""
    left = batches_left(trainer)
    if left is None or not trainer.limit_val_batches:
        return left if left is None else 0
    interval = trainer.val_check_interval
    share = isinstance(interval, float) and interval <= 1.0
    every = max(1, int(interval * trainer.num_training_batches)) if share else int(interval)
    done = trainer.global_step
    within = (done + left) // every - done // every
    return within + ((done + left) % every != 0)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was held so far: of the accelerator if it is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
