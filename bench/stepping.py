"""`Stepper`: a training loop that is advanced one rollout batch at a time, so that two of them can alternate."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

Pause = Callable[[], None]


class Seconds(NamedTuple):
    """What a step took: by the clock on the wall, and CPU seconds of all threads of the process."""

    wall: float
    cpu: float


class Stepper:
    """A training loop in a thread of its own, which waits wherever it calls `pause`.

    Trainers own their loops and give control back only when training is over. Here each runs in a thread, and only
    one thread at a time is awake, so the seconds of a step are those of one trainer alone.

    Args:
        train: Trains until its end, and calls the given `pause` after each rollout batch.
    """

    def __init__(self, train: Callable[[Pause], None]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(train,), daemon=True).start()

    def step(self) -> Seconds:
        """Train on one rollout batch, with all that the trainer does between two of them."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        spent = Seconds(time.perf_counter() - wall, time.process_time() - cpu)
        if self._error is not None:
            raise self._error
        return spent

    def _run(self, train: Callable[[Pause], None]) -> None:
        self._go.acquire()
        try:
            train(self._pause)
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()
