"""`Stepper`: a training loop in a process of its own, advanced one rollout batch at a time; so two can alternate."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

Pause = Callable[[], None]
Started = tuple[Callable[[Pause], None], Callable[[], float]]


class Seconds(NamedTuple):
    """What a step took: by the clock on the wall, and CPU seconds of all threads of the process."""

    wall: float
    cpu: float


class Stepper:
    """A training loop that waits wherever it calls `pause`, in a process of its own.

    Trainers own their loops and give control back only when training is over. Here each runs in a process, as it does
    for a user, and only one of them at a time is awake.

    Args:
        start: Called in the process with the arguments. Returns a function that trains until its end and calls the
            given `pause` after each rollout batch, and one that tells a number about the last batch.
        arguments: Of `start`.
        threads: Of torch in that process.
    """

    def __init__(self, start: Callable[..., Started], *arguments: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_train, args=(other, threads, start, arguments), daemon=True)
        self._process.start()
        other.close()
        self.number = 0.0

    def step(self) -> Seconds:
        """Train on one rollout batch, with all that the trainer does between two of them.

        Raises:
            EOFError: If the process failed; its traceback is printed.
        """
        self._pipe.send("go on")
        seconds, self.number = self._pipe.recv()
        return seconds

    def stop(self) -> None:
        """End the process."""
        self._process.kill()  # a trainer may catch SIGTERM and go on
        self._process.join()


def _train(pipe: Connection, threads: int, start: Callable[..., Started], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    train, number = start(*arguments)

    def wait() -> tuple[float, float]:
        pipe.recv()
        return time.perf_counter(), time.process_time()

    began = wait()

    def pause() -> None:
        nonlocal began
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # a trainer does not wait for its last kernels
        spent = Seconds(time.perf_counter() - began[0], time.process_time() - began[1])
        pipe.send((spent, number()))
        began = wait()

    train(pause)
