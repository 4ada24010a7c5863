"""The supervisor: one child of the run that starts workers, deals samples to them, and ends what they leave behind.

It is a process of its own, with a single thread, so that workers start in milliseconds and cleanly whatever threads
the run has; it adopts the orphans of workers, so that no process of a reward escapes; and it ends with the run.
"""

import contextlib
import gc
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

from rl4llm.rewards import processes
from rl4llm.rewards.verdicts import Problem, Score
from rl4llm.rewards.worker import Board, Rules, work

_TICK_S = 0.25  # how often memory and the life of the run are looked at
_LEAST_S, _CHUNK_S = 0.002, 0.02  # the work that is dealt at once: less is not worth a message, more may be unfair
_STRIKES = 3  # workers that ended before they called the reward, until the sample counts as lost
_START_S = 5.0  # how long a worker may take to begin, beyond the time limit
_TAIL = 200  # bytes of output that are kept
_BEFORE = "ended its process before the reward was called"


@dataclass
class _Worker:
    number: int
    process: int
    inbox: Connection
    output: int
    memory: int
    chunk: range = range(0)
    dealt: float = 0.0
    printed: bytes = b""


def supervise(run: int, outlet: Connection, reward: Any, board: Board, rules: Rules) -> NoReturn:
    """Serve the run, process `run`, until it ends or closes its side of `outlet`."""
    try:
        gc.freeze()  # nothing of the run's is collected here
        os.setsid()
        processes.release_channels({outlet.fileno()})
        processes.redirect_streams(-1)
        processes.reset_signals()
        processes.adopt_orphans()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to every process of a job; the run decides
        Supervisor(run, outlet, reward, board, rules).serve()
    finally:
        with contextlib.suppress(BaseException):
            processes.end_children()
        os._exit(0)


class Supervisor:
    """Deals the samples of one batch after another to workers, each of which may end at any moment."""

    def __init__(self, run: int, outlet: Connection, reward: Any, board: Board, rules: Rules) -> None:
        self.run, self.outlet, self.reward, self.board, self.rules = run, outlet, reward, board, rules
        self.workers: dict[int, _Worker] = {}
        self.waiting: deque[range] = deque()
        self.verdicts: dict[int, Problem | Score] = {}  # of all responses but those with a plain score
        self.strikes = 0
        self.looked = 0.0
        self.pace = _CHUNK_S / 2  # seconds per sample, as measured; at first, two samples are dealt at once

    def serve(self) -> None:
        """Score batches until the run is gone."""
        while os.getppid() == self.run:
            self._listen()
            if self.outlet.poll():
                batch = self.outlet.recv()  # raises when the run has closed its side
                if batch is None:
                    return
                self._score(batch)

    def _score(self, batch: range) -> None:
        self.waiting, self.verdicts = deque([batch]), {}
        while self.waiting or any(worker.chunk for worker in self.workers.values()):
            self._deal()
            self._listen()
            self._enforce()
            if os.getppid() != self.run or self.outlet.poll():
                return  # the run has ended, or closed its side
        for worker in self.workers.values():  # threads that calls have left take no time from the run meanwhile
            os.kill(worker.process, signal.SIGSTOP)
        self.outlet.send(self.verdicts)

    def _deal(self) -> None:
        for number in range(self.rules.workers):
            if not self.waiting:
                return
            worker = self.workers.get(number) or self._start(number)
            if worker is None or worker.chunk:
                continue
            fair = sum(map(len, self.waiting)) // (2 * self.rules.workers)
            size = max(1, min(max(fair, int(_LEAST_S / self.pace)), int(_CHUNK_S / self.pace)))
            first = self.waiting.popleft()
            worker.chunk = first[:size]
            if first[size:]:
                self.waiting.appendleft(first[size:])
            worker.dealt = time.monotonic()
            self.board.enter(number, 0, -1)
            with contextlib.suppress(OSError):  # it has ended; its chunk is taken back when that is noticed
                os.kill(worker.process, signal.SIGCONT)
                worker.inbox.send(worker.chunk)

    def _start(self, number: int) -> _Worker | None:
        mine, theirs = Pipe()
        output, printing = os.pipe()
        supervisor = os.getpid()
        try:
            process = os.fork()
        except OSError:  # no more processes are allowed: go on with those that there are
            os.close(output)
            os.close(printing)
            if self.workers:
                return None
            raise
        if process == 0:
            try:
                processes.die_with(supervisor)
                os.setsid()
                work(number, self.reward, self.board, theirs, printing, self.rules)
            finally:
                os._exit(0)
        theirs.close()
        os.close(printing)
        os.set_blocking(output, False)
        self.workers[number] = _Worker(number, process, mine, output, processes.memory_of(process))
        return self.workers[number]

    def _listen(self) -> None:
        """Take what workers say and print, until the next tick or time limit."""
        workers = list(self.workers.values())
        outputs = [worker.output for worker in workers if worker.output >= 0]
        ready = set(wait([self.outlet, *(worker.inbox for worker in workers), *outputs], self._patience()))
        for worker in workers:
            if worker.output in ready:
                self._read_output(worker)
            if worker.inbox in ready and not self._read_inbox(worker):
                self._end(worker)
        for worker in list(self.workers.values()):  # its channel may be held open by what it left behind
            if (status := processes.wait_for(worker.process, 0.0)) is not None:
                self._bury(worker, _cause(status, worker.printed))

    def _patience(self) -> float:
        left = [self._time_left(worker) for worker in self.workers.values() if worker.chunk]
        return max(0.001, min([_TICK_S, *left]))

    def _time_left(self, worker: _Worker) -> float:
        _, index, since = self.board.state(worker.number)
        limit = self.rules.timeout_s if index >= 0 else self.rules.timeout_s + _START_S
        return max(since, worker.dealt) + limit - time.monotonic()

    def _read_output(self, worker: _Worker) -> None:
        with contextlib.suppress(BlockingIOError):
            text = os.read(worker.output, 1 << 16)
            worker.printed = (worker.printed + text)[-_TAIL:]
            if not text:
                os.close(worker.output)
                worker.output = -1

    def _read_inbox(self, worker: _Worker) -> bool:
        """Take all messages; return whether there may be more to come."""
        try:
            while worker.inbox.poll():
                message = worker.inbox.recv()
                if message is None:
                    self.pace = (self.pace + (time.monotonic() - worker.dealt) / len(worker.chunk)) / 2
                    worker.chunk, self.strikes = range(0), 0
                else:
                    self.verdicts.setdefault(*message)
        except (EOFError, OSError):
            return False
        return True

    def _enforce(self) -> None:
        """End workers whose call takes too long or too much memory."""
        look = time.monotonic() > self.looked + _TICK_S
        for worker in [worker for worker in self.workers.values() if worker.chunk]:
            if self._time_left(worker) < 0:
                self._end(worker, Problem(f"took longer than {self.rules.timeout_s:g} s"))
            elif look and self._growth(worker) > self.rules.memory:
                self._end(worker, Problem(f"took more than {self.rules.memory / 2**30:g} GiB of memory"))
        if look:
            self.looked = time.monotonic()

    def _growth(self, worker: _Worker) -> int:
        """Memory of the worker and its descendants beyond what it started with, and they perhaps share."""
        family = [worker.process, *processes.descendants_of(worker.process)]
        return sum(max(0, processes.memory_of(process) - worker.memory) for process in family)

    def _end(self, worker: _Worker, cause: Problem | None = None) -> None:
        """End a worker, which may have ended by itself if there is no cause."""
        status = processes.wait_for(worker.process, 0.5) if cause is None else None
        if status is None:
            processes.kill(worker.process)
            processes.wait_for(worker.process, 2.0)
            self._bury(worker, cause or Problem("closed the files of its process"))
        else:
            self._bury(worker, _cause(status, worker.printed))

    def _bury(self, worker: _Worker, cause: Problem) -> None:
        """Count the sample at which a worker ended as lost, give the rest to others, and end what it left behind."""
        self._read_inbox(worker)
        del self.workers[worker.number]
        worker.inbox.close()
        if worker.output >= 0:
            os.close(worker.output)
        processes.end_children(keep=[other.process for other in self.workers.values()])
        done, index, _ = self.board.state(worker.number)
        left = worker.chunk[done:]
        if left and index < 0 and done == 0:
            self.strikes += 1
            if self.strikes >= _STRIKES:
                index, cause = left[0], Problem(_BEFORE)
        if left and index >= 0:
            self.strikes = 0
            if not isinstance(self.verdicts.get(index), Problem):
                self.verdicts[index] = cause
            self.board.write_score(index, float("nan"))
            left = left[1:]
        if left:
            self.waiting.appendleft(left)


def _cause(status: int, printed: bytes) -> Problem:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        lines = printed.decode(errors="replace").strip().splitlines()
        return Problem(
            f"ended by signal {number} ({signal.strsignal(number)})", f"having printed {lines[-1]!r}" if lines else ""
        )
    return Problem(f"ended its process with exit code {os.WEXITSTATUS(status)}")
