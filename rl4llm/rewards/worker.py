"""The worker process: it calls the reward on one response after another and says where it stands."""

import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from rl4llm.rewards import processes
from rl4llm.rewards.verdicts import Problem, Score, call_reward, describe_error

_MOST_THREADS = 8  # a worker in which calls have left more threads than that is replaced
_SCORE = struct.Struct("d")
_PLACE = struct.Struct("q")
_STATE = struct.Struct("qqd")


class Board(NamedTuple):
    """What the run, the supervisor and the workers share: files for arguments and scores, and the workers' states.

    Args:
        samples: File descriptor of the pickled arguments `(prompt, response, answer)`.
        scores: File descriptor of the scores, in float64, by the number of the sample.
        states: For each worker, how many samples of its chunk it is done with, the number of the sample at which it
            works (-1: none), and since when.
    """

    samples: int
    scores: int
    states: mmap.mmap

    @classmethod
    def create(cls, workers: int) -> "Board":
        """Create the files in memory; processes that are forked from this one share them."""
        states = mmap.mmap(-1, workers * _STATE.size)
        board = cls(os.memfd_create("rewards-samples"), os.memfd_create("rewards-scores"), states)
        for worker in range(workers):
            board.enter(worker, 0, -1)
        return board

    def put(self, samples: Sequence[bytes]) -> None:
        """Lay down the pickled arguments of a batch, after a table of their places; none of them is scored yet."""
        os.ftruncate(self.samples, 0)
        os.ftruncate(self.scores, 0)
        places = accumulate(map(len, samples), initial=_PLACE.size * (len(samples) + 1))
        _write(self.samples, b"".join([*map(_PLACE.pack, places), *samples]))
        _write(self.scores, _SCORE.pack(float("nan")) * len(samples))

    def take(self, chunk: range) -> list[memoryview]:
        """Read the pickled arguments of consecutive samples."""
        table = os.pread(self.samples, _PLACE.size * (len(chunk) + 1), _PLACE.size * chunk.start)
        places = [place for (place,) in _PLACE.iter_unpack(table)]
        text = memoryview(os.pread(self.samples, places[-1] - places[0], places[0]))
        return [text[start - places[0] : stop - places[0]] for start, stop in pairwise(places)]

    def write_score(self, index: int, score: float) -> None:
        """Write the score of a sample."""
        os.pwrite(self.scores, _SCORE.pack(score), index * _SCORE.size)

    def read_scores(self, count: int) -> bytearray:
        """Read the scores of the first samples, in float64."""
        return bytearray(os.pread(self.scores, count * _SCORE.size, 0))

    def enter(self, worker: int, done: int, index: int) -> None:
        """Enter the state of a worker."""
        _STATE.pack_into(self.states, worker * _STATE.size, done, index, time.monotonic())

    def state(self, worker: int) -> tuple[int, int, float]:
        """Read the state of a worker: samples done, sample at work or -1, since when."""
        while True:
            state = _STATE.unpack_from(self.states, worker * _STATE.size)
            if state == _STATE.unpack_from(self.states, worker * _STATE.size):  # not read while it was being written
                return state

    def close(self) -> None:
        """Release the files."""
        os.close(self.samples)
        os.close(self.scores)
        self.states.close()


class Rules(NamedTuple):
    """How a reward may be run.

    Args:
        workers: Most worker processes.
        timeout_s: Time limit of a call in seconds.
        largest: Largest magnitude of a score.
        memory: Most bytes by which a worker may grow.
        keep_children: Whether processes that a call leaves behind live on.
    """

    workers: int
    timeout_s: float
    largest: float
    memory: float
    keep_children: bool


def work(number: int, reward: Any, board: Board, inbox: Connection, output: int, rules: Rules) -> NoReturn:
    """Score chunks until the process is ended; it never returns, not even in a copy that the reward forked."""
    try:
        processes.release_channels({inbox.fileno(), output})
        processes.redirect_streams(output)
        processes.reset_signals()
        processes.adopt_orphans()
        processes.yield_memory_first()
        if "torch" in sys.modules:  # the pool of threads did not survive the fork; a single thread needs none
            sys.modules["torch"].set_num_threads(1)
        while threading.active_count() <= _MOST_THREADS:
            _score_chunk(number, reward, board, inbox, rules)
    finally:
        os._exit(0)


def _score_chunk(number: int, reward: Any, board: Board, inbox: Connection, rules: Rules) -> None:
    chunk: range = inbox.recv()
    for done, (sample, arguments) in enumerate(zip(chunk, board.take(chunk), strict=True)):
        board.enter(number, done, sample)
        try:
            prompt, response, answer = pickle.loads(arguments)
            result = call_reward(reward, prompt, response, answer, rules.largest)
        except BaseException as error:
            result = describe_error(error)
        if not isinstance(result, float):
            inbox.send((sample, result))
        if not isinstance(result, Problem):
            board.write_score(sample, result.value if isinstance(result, Score) else result)
        _tidy_up(rules.keep_children)
        board.enter(number, done + 1, -1)
        if threading.active_count() > _MOST_THREADS:
            return  # the process ends, and the supervisor gives the rest of the chunk to another worker
    inbox.send(None)


def _tidy_up(keep_children: bool) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that the reward set and forgot
    if not keep_children and processes.has_children():
        processes.end_children()


def _write(file: int, text: bytes) -> None:
    written = 0
    while written < len(text):  # the system writes at most 2 GiB at once
        written += os.pwrite(file, memoryview(text)[written:], written)
