"""`StepBar`: the progress of a run, as one line that a terminal redraws, or as a line every ten seconds elsewhere."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

_WIDTH = 79  # of a terminal of 80 columns, the last of which some terminals wrap at
_METRICS = {"train/reward": "reward", "val/sampled_accuracy": "held out"}
_OFTEN_S, _SELDOM_S = 0.1, 10.0  # between two lines in a terminal, and elsewhere


class StepBar(ProgressBar):
    """Shows steps, time per step, two metrics and the time that is left.

    In a terminal one line of at most 79 columns is redrawn. Elsewhere a line is written after the first step, after the
    last one, and in between at most every ten seconds. Only the first process writes.

    Args:
        stream: Where lines go; standard output when None.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self.stream, self.is_enabled = stream, True
        self.started, self.shown = 0.0, float("-inf")
        self.latest: dict[str, float] = {}
        self.first = self.drawn = 0  # the step at which this run began; columns that the latest line takes

    def disable(self) -> None:
        """Stop writing."""
        self.is_enabled = False

    def enable(self) -> None:
        """Write again."""
        self.is_enabled = True

    def print(self, *words: Any, **options: Any) -> None:
        """Print words on lines of their own."""
        self._wipe()
        print(*words, **{"file": self._stream, **options})

    # --- when --------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.shown, self.first = time.perf_counter(), float("-inf"), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show the step."""
        done, total = trainer.global_step, trainer.estimated_stepping_batches
        last = done >= total
        if not last and time.perf_counter() - self.shown < self._pause:
            return
        seconds = (time.perf_counter() - self.started) / max(1, done - self.first)
        parts = [f"{seconds:.3g} s per step", *self._metrics(trainer)]
        if total != float("inf") and not last:
            parts.append(f"{_clock((int(total) - done) * seconds)} left")
        self._show(step_line(done, total, parts, marks="━─" if self._draws else "=-"))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far an evaluation is."""
        self._evaluated(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches, args[2])

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far an evaluation is."""
        self._evaluated(trainer.num_test_batches, args[2])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line."""
        self._wipe()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line."""
        self._wipe()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the line, which stays."""
        if self.drawn:
            self._stream.write("\n")
            self.drawn = 0

    def _evaluated(self, counts: list[int | float], batch: int) -> None:
        if self._terminal:
            self._show(f"evaluation {batch + 1}/{sum(int(count) for count in counts)}")

    # --- what --------------------------------------------------------------------------------------------------------

    def _metrics(self, trainer: Trainer) -> list[str]:
        """Return the two metrics that matter; of a module without those, the first two that it shows."""
        self.latest |= {name: x for name, x in trainer.progress_bar_metrics.items() if isinstance(x, float)}
        names = [name for name in _METRICS if name in self.latest] or list(self.latest)[:2]
        return [f"{_METRICS.get(name, name.rpartition('/')[-1])} {self.latest[name]:.3f}" for name in names]

    # --- where -------------------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> Any:
        return self.stream or sys.stdout

    @property
    def _terminal(self) -> bool:
        return self._stream.isatty()

    @property
    def _draws(self) -> bool:
        """Whether the stream can write the marks of the bar."""
        return (self._stream.encoding or "").lower().replace("-", "") == "utf8"

    @property
    def _pause(self) -> float:
        return _OFTEN_S if self._terminal else _SELDOM_S

    def _show(self, line: str) -> None:
        if not self.is_enabled or not self.trainer.is_global_zero:
            return
        self.shown = time.perf_counter()
        if self._terminal:
            line = line[:_WIDTH]
            self._stream.write(f"\r{line:{self.drawn}}")
            self.drawn = len(line)
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def _wipe(self) -> None:
        if self.drawn:
            self._stream.write(f"\r{'':{self.drawn}}\r")
            self.drawn = 0


def step_line(done: int, total: int | float, parts: list[str], *, marks: str = "=-") -> str:
    """Return the line about a step, with a bar where 79 columns leave room for one.

    Args:
        done: Steps so far.
        total: Steps of the run; infinite if it has no end.
        parts: What else is said.
        marks: What the bar is drawn with: done, then left.

    Example:
        >>> step_line(20, 80, ["1.2 s per step", "reward 0.810"])
        'step 20/80 =====---------------  1.2 s per step, reward 0.810'
    """
    many = f"step {done:,}" if total == float("inf") else f"step {done:,}/{int(total):,}"
    said = ", ".join(parts)
    room = min(20, _WIDTH - len(many) - len(said) - 3)
    if total == float("inf") or room < 4:
        return f"{many}  {said}"
    full = room * done // max(1, int(total))
    return f"{many} {marks[0] * full}{marks[1] * (room - full)}  {said}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def has_bar(callbacks: Any) -> bool:
    """Return whether a progress bar is among callbacks: a list, one callback, or None."""
    some = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(isinstance(callback, ProgressBar) for callback in some)
