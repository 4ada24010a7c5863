"""`StepBar`: the progress of a run, as one line that a terminal redraws, or as a line every ten seconds elsewhere."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from rl4llm.progress import progress
from rl4llm.wording import counted

_WIDTH = 79  # of a terminal of 80 columns, the last of which some terminals wrap at
_METRICS = {"train/reward": "reward", "val/sampled_accuracy": "held out"}
_OFTEN_S, _SELDOM_S = 0.1, 10.0  # between two lines in a terminal, and elsewhere


class StepBar(ProgressBar):
    """Shows steps, time per step, two metrics and the time that is left.

    In a terminal one line of at most 79 columns is redrawn at every step, and every second in a long step. Elsewhere a
    line is written before the first step, after it, after the last one, and in between at most every ten seconds.
    Evaluations are shown in the same way. Only the first process writes.

    Args:
        stream: Where lines go; standard output when None.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self.stream, self.is_enabled = stream, True
        self.started = self.stepped = self.evaluating = 0.0  # when training, the present step, an evaluation began
        self.evaluated = self.paused = 0.0  # seconds of evaluations in training, and of those before the latest step
        self.shown = float("-inf")
        self.latest: dict[str, float] = {}
        self.first, self.done, self.total = 0, 0, float("inf")  # the step at which this run began; steps
        self.training = False
        self.evaluation, self.batch, self.batches = "evaluation", 0, 0

    def disable(self) -> None:
        """Stop writing."""
        self.is_enabled = False

    def enable(self) -> None:
        """Write again."""
        self.is_enabled = True

    def print(self, *words: Any, **options: Any) -> None:
        """Print words on lines of their own."""
        progress.wipe()
        print(*words, **{"file": self._stream, **options})

    # --- steps -------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and announce the first step."""
        self.started = self.stepped = time.perf_counter()
        self.evaluated, self.paused, self.training = 0.0, 0.0, True
        self.first = self.done = trainer.global_step
        self.total = trainer.estimated_stepping_batches
        self._show(self._step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show the step."""
        self.done, self.total = trainer.global_step, trainer.estimated_stepping_batches
        self.stepped, self.paused = time.perf_counter(), self.evaluated
        self._learn(trainer.progress_bar_metrics)
        started = self.done == self.first + 1
        if started or self.done >= self.total or self.stepped - self.shown >= self._pause:
            self._show(self._step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the line, which stays."""
        progress.keep()
        progress.end()
        self.training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, which stays."""
        self.on_train_end(trainer, pl_module)

    def _step(self) -> str:
        """Return the line about the present step."""
        now, steps = time.perf_counter(), self.done - self.first
        if not steps:
            return step_line(self.done, self.total, [f"first step{_seconds(now - self.started)}"], marks=self._marks)
        mean = (self.stepped - self.started) / steps  # with evaluations
        parts = [f"{(self.stepped - self.started - self.paused) / steps:.3g} s per step", *self._metrics()]
        if self.total == float("inf"):
            parts.append(f"{_clock(now - self.started)} so far")
        elif self.done < self.total:
            parts.append(f"{_clock(max(0.0, (self.total - self.done) * mean - (now - self.stepped)))} left")
        return step_line(self.done, self.total, parts, marks=self._marks)

    # --- evaluations -------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce an evaluation."""
        counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._announce(f"evaluation{when(trainer)}", counts)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce an evaluation."""
        self._announce("evaluation on test prompts", trainer.num_test_batches)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far an evaluation is."""
        self._answered(args[2])

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Show how far an evaluation is."""
        self._answered(args[2])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line, and show steps again if there are more."""
        progress.end()
        self.evaluated += time.perf_counter() - self.evaluating
        self._learn({name: x for name, x in trainer.callback_metrics.items() if name in _METRICS})
        if self.training:
            progress.every_second(self._tick(self._step))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line."""
        progress.end()

    def _announce(self, evaluation: str, counts: list[int | float]) -> None:
        self.evaluation, self.batch, self.batches = evaluation, 1, sum(int(count) for count in counts)
        self.evaluating = time.perf_counter()
        self._show(self._evaluate)

    def _answered(self, batch: int) -> None:
        self.batch = min(batch + 2, self.batches)
        if batch + 1 < self.batches and time.perf_counter() - self.shown >= self._pause:
            self._show(self._evaluate)

    def _evaluate(self) -> str:
        """Return the line about an evaluation."""
        seconds = time.perf_counter() - self.evaluating
        return f"{self.evaluation}, batch {self.batch}/{self.batches}{_seconds(seconds)}"

    # --- what --------------------------------------------------------------------------------------------------------

    def _learn(self, metrics: Any) -> None:
        """Keep the metrics that may be shown; a logger's version number is among those of Lightning's bar."""
        self.latest |= {name: float(x) for name, x in metrics.items() if name != "v_num"}

    def _metrics(self) -> list[str]:
        """Return the two metrics that matter; in place of one that is not logged, the first that the module shows."""
        known = [name for name in _METRICS if name in self.latest]
        names = [*known, *(name for name in self.latest if name not in known)][:2]
        return [f"{_METRICS.get(name, name.rpartition('/')[-1])} {self.latest[name]:.3f}" for name in names]

    # --- where -------------------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> Any:
        return self.stream or sys.stdout

    @property
    def _terminal(self) -> bool:
        return self._stream.isatty()

    @property
    def _marks(self) -> str:
        """What the bar is drawn with, which depends on what the stream can write."""
        draws = self._terminal and (self._stream.encoding or "").lower().replace("-", "") == "utf8"
        return "━─" if draws else "=-"

    @property
    def _pause(self) -> float:
        return _OFTEN_S if self._terminal else _SELDOM_S

    def _show(self, line: Any) -> None:
        """Write a line now, and in a terminal every second from now on."""
        if not self.is_enabled or not self.trainer.is_global_zero:
            return
        self.shown = time.perf_counter()
        if self._terminal:
            self._tick(line)()
            progress.every_second(self._tick(line))
        else:
            self._stream.write(f"{line()}\n")
            self._stream.flush()

    def _tick(self, line: Any) -> Any:
        return lambda: progress.draw(line()[:_WIDTH], self._stream) if self._terminal and self.is_enabled else None


def when(trainer: Trainer) -> str:
    """Say when in a run an evaluation happens; nothing where there is no run, as under `validate`."""
    if trainer.sanity_checking:
        return " before training"
    steps = trainer.global_step
    return f" after {counted(steps, 'step')}" if steps else ""


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


def _seconds(seconds: float) -> str:
    return f", {seconds:.0f} s" if seconds >= 1 else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def has_bar(callbacks: Any) -> bool:
    """Return whether a progress bar is among callbacks: a list, one callback, or None."""
    some = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(isinstance(callback, ProgressBar) for callback in some)
