"""How a run ends: one line and one exit status, however many processes it has."""

import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rl4llm.checks import UsageError
from rl4llm.progress import fitted, progress
from rl4llm.runs.stopping import RunStopped

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_DISK_TEXT = ("PytorchStreamWriter failed", "No space left on device", "[enforce fail at inline_container")
_PEER_TEXT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Gloo", "gloo")
_WITH_CHILDREN = "lightning.fabric.strategies.launchers.subprocess_script"


class Voice(Callback):
    """Let exactly one process of a run say why it ended.

    The processes share a file that does not exist while all is well. Whoever creates it first speaks.
    """

    def __init__(self) -> None:
        self.place: Path | None = None
        self.trainer: Trainer | None = None
        self.folder: Path | None = None
        self.training = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Agree on the file."""
        self.trainer, folder = trainer, trainer.log_dir
        self.folder = Path(folder) if folder else None
        if trainer.world_size > 1 and self.place is None:
            ours = str(Path(tempfile.gettempdir()) / f"rl4llm-{uuid.uuid4().hex}")
            self.place = Path(trainer.strategy.broadcast(ours))
            logger = logging.getLogger(_WITH_CHILDREN)
            logger.addFilter(self._rephrase)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """From here on a failure is one of the run; what fails before has not touched it."""
        self.training = True

    def claim(self, message: str, status: int, *, after: float = 0.0) -> bool:
        """Whether this process is the one that speaks. The first to ask leaves message and status to the others.

        Args:
            message: What it would say.
            status: Its exit status.
            after: Seconds in which another process, the one with the traceback, may speak first.
        """
        if self.place is None:
            return True
        until = time.monotonic() + after
        while time.monotonic() < until and self.spoken() is None:
            time.sleep(0.05)
        try:
            with open(self.place, "x", encoding="utf-8") as file:
                file.write(f"{status} {message}")
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def spoken(self) -> tuple[str, int] | None:
        """Return message and exit status of the process that spoke; None if none has."""
        try:
            text = "" if self.place is None else self.place.read_text(encoding="utf-8")
            status, _, message = text.partition(" ")
            return message, int(status)
        except (OSError, ValueError):
            return None

    def say(self, message: str, status: int) -> None:
        """Print a message unless another process has spoken."""
        if self.claim(message, status):
            progress.wipe()
            print(fitted(message, sys.stderr), file=sys.stderr, flush=True)

    def hint(self) -> str:
        """Return what to say about the checkpoints when training has failed; empty if there are none."""
        saved = self.training and self.folder is not None and any((self.folder / "checkpoints").glob("*.ckpt"))
        return " The checkpoints saved before are intact; go on with --ckpt_path=last." if saved else ""

    def _rephrase(self, record: logging.LogRecord) -> bool:
        """The launcher reports the death of a child before it ends all others: say it in our words, once."""
        if "terminated with code" in record.getMessage():
            self.say(f"error: {_PEER_ENDED}{self.hint()}", 1)
            return False
        return True


_PEER_ENDED = "another process of this run has ended (killed, or out of memory), so this one ends as well."


def explain(error: BaseException, hint: str = "", *, alone: bool = True) -> tuple[str, int] | None:
    """Return one line and an exit status for an expected error; None if the traceback should be shown.

    Args:
        error: What ended the run.
        hint: What is left of the run, added to failures.
        alone: Whether the run has one process, so that broken connections are not those to its other processes.
    """
    text = " ".join(str(error).split())
    if isinstance(error, RunStopped):
        return text, error.status
    if "--ckpt_path=last" in text or "are intact" in text:
        hint = ""  # the message says it itself
    if isinstance(error, UsageError | MisconfigurationException):
        return f"error: {text}{hint}", 2
    if (isinstance(error, OSError) and error.errno in _DISK) or any(part in text for part in _DISK_TEXT):
        return f"error: {_disk(error, text)}{hint}", 1
    if not alone and isinstance(error, RuntimeError) and any(part in text for part in _PEER_TEXT):
        return f"error: {_PEER_ENDED}{hint}", 1
    return None


def _disk(error: BaseException, text: str) -> str:
    place = getattr(error, "filename", None)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "the disk may be full"
    where = f"'{place}'" if place else "a file of the run"
    return f"{where} cannot be written: {reason}; free some space or choose another --trainer.default_root_dir."


def end_children(trainer: Trainer | None, *, at_once: bool) -> None:
    """Make sure that the processes which this one launched end with it, and that they do not end it first.

    Args:
        trainer: Whose launcher is asked; nothing happens without one.
        at_once: Kill them, because this process ends on its own; otherwise they are ending in step with it.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]
    launcher = None if trainer is None else trainer.strategy.launcher
    if at_once and isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)


def leave(status: int) -> None:
    """End the process with a status. A rank of several does not wait for communication that will never finish."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
