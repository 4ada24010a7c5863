"""SIGTERM and Ctrl-C end a run after the current rollout batch, with a checkpoint; a second signal ends it at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from rl4llm.runs.checkpoints import Checkpoints

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunStopped(BaseException):
    """The run was ended by a signal.

    Args:
        signum: The signal.
        saved: The checkpoint that was written on the way out; None if there was nothing to save.
        batches: Rollout batches trained so far.
        together: Whether all processes of the run stop at this same point.
    """

    def __init__(self, signum: int, saved: Path | None = None, batches: int = 0, *, together: bool = False) -> None:
        self.signum, self.saved, self.batches, self.together = signum, saved, batches, together
        super().__init__(str(self))

    @property
    def status(self) -> int:
        """The exit status that a shell reports for a process ended by this signal."""
        return 128 + self.signum

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        if self.batches == 0:
            return f"stopped by {name} before a rollout batch was complete; there was nothing to save."
        after = f"stopped by {name} after {self.batches} rollout batch{'es' * (self.batches > 1)}"
        if self.saved is None:
            return f"{after}; nothing was saved just now."
        return f"{after}; saved {self.saved}; go on with --ckpt_path=last"


class Signals:
    """Signal handlers for the length of a run (a context manager).

    While the run is `patient` the first signal is only noted, so that the rollout batch can finish; otherwise it raises
    `RunStopped` wherever the program is. Every later signal ends the process at once.
    """

    def __init__(self) -> None:
        self.received, self.patient = 0, False
        self.saved: Path | None = None
        self.batches = 0
        self.at_once: Callable[[], None] = lambda: None
        self._pid, self._before = os.getpid(), {}  # type: ignore[var-annotated]

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.getsignal(signum) for signum in SIGNALS}
            self.install()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def install(self) -> None:
        """Take the signals. Called again once the Trainer has put its own handlers in place."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _as_worker(signum)
        elif self.received:
            try:
                self.at_once()
            finally:
                os._exit(128 + signum)
        else:
            self.received = signum
            if not self.patient:
                raise RunStopped(signum, self.saved, self.batches)
            if signum == signal.SIGINT and sys.stderr.isatty():
                print("\nfinishing the rollout batch, then saving; press Ctrl-C again to end at once", file=sys.stderr)


def _as_worker(signum: int) -> None:
    """A forked worker inherits the handlers: SIGTERM ends it, and Ctrl-C is for the process that forked it."""
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


class Stopping(Callback):
    """Between two rollout batches, save a checkpoint and raise `RunStopped` if any process has received a signal.

    The checkpoint is written by [Checkpoints][rl4llm.runs.Checkpoints] at the end of the batch, or after the evaluation
    that follows it.

    Args:
        signals: The handlers.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals, self.asked = signals, 0

    def on_sanity_check_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals back from the Trainer."""
        self.signals.install()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals back from the Trainer."""
        self.signals.install()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Stop before the next rollout batch. From the first one on there is something to save."""
        self._stop(trainer)
        self.signals.patient = True

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Agree with the other processes on whether to stop, and have the batch saved."""
        self._agree(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals back from the Trainer, which takes them whenever it begins something."""
        self.signals.install()

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals back from the Trainer."""
        self.signals.install()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """A signal that came in an evaluation between two batches stops before the next one."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        received = torch.tensor(self.signals.received, device=trainer.strategy.root_device)
        self.asked = int(trainer.strategy.reduce(received, reduce_op="max"))
        saver = _saver(trainer)
        if self.asked and saver is not None:
            saver.request_save()

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop if the signal came in the last rollout batch or since; from here on one ends the run where it is."""
        self._agree(trainer)
        self._stop(trainer)
        self.signals.saved, self.signals.batches = _last(trainer), trainer.global_step
        self.signals.patient = False

    def _stop(self, trainer: Trainer) -> None:
        if self.asked:
            raise RunStopped(self.asked, _last(trainer), trainer.global_step, together=True)


def _last(trainer: Trainer) -> Path | None:
    saver = _saver(trainer)
    return None if saver is None else Path(saver.last_model_path)


def _saver(trainer: Trainer) -> Checkpoints | None:
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints)), None)
