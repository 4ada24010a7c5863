"""`Pool`: runs in processes of their own, side by side; one that fails does not keep the others from running."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rl4llm.checks import check_at_least
from rl4llm.studies.folders import Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
State = Literal["finished", "failed", "running", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run: The run.
        state: `running` means that another process is making it.
        reason: Why it failed, in one line.
    """

    run: Run
    state: State
    reason: str = ""


def jobs_at_once(jobs: int | None, threads: int, *, one_device: bool) -> int:
    """Return how many runs go side by side: one per GPU, or as many as the cores have threads for.

    Args:
        jobs: What was asked for; None chooses.
        threads: Threads of each run.
        one_device: Whether every run needs at most one device; otherwise runs follow each other.
    """
    check_at_least("report", 1, jobs=jobs, threads=threads)
    if jobs is not None:
        return jobs
    if not one_device:
        return 1
    return len(visible_devices()) or max(1, len(os.sched_getaffinity(0)) // threads)


def visible_devices() -> list[str]:
    """Return the names of the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` takes them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name for name in listed.split(",") if name] or [str(n) for n in range(torch.cuda.device_count())]


class Pool:
    """Processes that run side by side and end together.

    Args:
        jobs: How many at once.
        devices: GPUs that are handed out, one per run; without any, a process keeps the devices that there are.
    """

    def __init__(self, jobs: int, devices: Sequence[str] = ()) -> None:
        self.jobs, self.stopping = jobs, False
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for slot in range(jobs):
            self.slots.put(devices[slot % len(devices)] if devices else None)

    def outcomes(self, runs: Sequence[Run]) -> Iterator[Outcome]:
        """Make the runs, at most `jobs` at once, and yield how each ended; a run that is finished is not made again.

        The first SIGINT, SIGTERM or SIGHUP is handed on to all processes, which save their checkpoints; a second one
        ends them at once.
        """
        with self._handing_on_signals(), ThreadPoolExecutor(self.jobs) as threads:
            started: list[Future[Outcome]] = [threads.submit(self.make, run) for run in runs]
            for done in as_completed(started):
                yield done.result()

    def make(self, run: Run) -> Outcome:
        """Make one run, or go on with it, and wait until it ends."""
        slot = self.slots.get()
        try:
            with run.claimed() as lock:
                if lock is None:
                    return Outcome(run, "running")
                if run.finished:
                    return Outcome(run, "finished")
                if not run.resumable:
                    run.note_source()
                return self._ended(run, self._process(run, lock, slot))
        finally:
            self.slots.put(slot)

    def _process(self, run: Run, lock: int, device: str | None) -> int | None:
        """Run the recipe and return its exit status; None if nothing is to be started any more."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads)}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        (run.place / "failure.txt").unlink(missing_ok=True)
        with open(run.place / "output.txt", "wb") as out, open(run.place / "errors.txt", "wb") as errors:
            with self.lock:
                if self.stopping:
                    return None
                process = subprocess.Popen(
                    words_of(run),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                    env=environment,
                    pass_fds=[lock],
                    start_new_session=True,  # Ctrl-C reaches this process alone, which hands it on once
                )
                self.processes.add(process)
                if self.stopping:
                    process.send_signal(signal.SIGTERM)
            status = process.wait()
        with self.lock:
            self.processes.discard(process)
        return status

    def _ended(self, run: Run, status: int | None) -> Outcome:
        if status == 0 and run.finished:
            return Outcome(run, "finished")
        if self.stopping:
            return Outcome(run, "stopped")
        reason = _reason(run.place / "errors.txt", status)
        (run.place / "failure.txt").write_text(reason + "\n", encoding="utf-8")
        return Outcome(run, "failed", reason)

    @contextmanager
    def _handing_on_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hand_on) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: object) -> None:
        again, self.stopping = self.stopping, True
        for process in list(self.processes):
            process.send_signal(signal.SIGKILL if again else signal.SIGTERM)


def words_of(run: Run) -> list[str]:
    """Return the command line of the run's process; a run that has left a checkpoint goes on from it."""
    last = ["--ckpt_path=last"] if run.resumable else []
    own = [f"--seed_everything={run.seed}", f"--trainer.default_root_dir={run.place}"]
    script = str(run.resolved.script)
    return [sys.executable, script, "fit", *run.resolved.arm.flags, *own, "--trainer.enable_progress_bar=false", *last]


def _reason(errors: Path, status: int | None) -> str:
    """Return the last line that a process wrote to standard error, or the signal that ended it."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"its process was ended by {name}" + ("; memory may have run out." if name == "SIGKILL" else ".")
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ").strip() if lines else f"it ended with status {status} and said nothing."
