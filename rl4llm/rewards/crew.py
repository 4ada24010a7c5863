"""The worker processes as the run sees them: one supervisor, which it starts, asks and ends."""

import contextlib
import os
import warnings
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import torch
from torch import Tensor

from rl4llm.rewards import processes
from rl4llm.rewards.scores import Verdict
from rl4llm.rewards.supervisor import supervise
from rl4llm.rewards.verdicts import Problem, Score
from rl4llm.rewards.worker import Board, Rules

_PATIENCE_S = 5.0  # for the supervisor to end
_MOST_DEATHS = 100  # of supervisors, in one batch


class NoProcessError(Exception):
    """No process can be started; the message says why."""


class _SupervisorEndedError(Exception):
    pass


class Crew:
    """Workers that score batches with one reward. Processes start at once, and end with the crew or the run.

    Args:
        reward: The verifier; workers are forked, so that it may be a lambda or a closure.
        rules: How it may be run.

    Raises:
        NoProcessError: If no process can be started.
    """

    def __init__(self, reward: Any, rules: Rules) -> None:
        self.reward, self.rules, self.run = reward, rules, os.getpid()
        try:
            self.board = Board.create(rules.workers)
        except OSError as error:
            raise NoProcessError(str(error)) from error
        weakref.finalize(self, self.board.close)
        self._start()

    def score(self, samples: Sequence[bytes]) -> list[Verdict]:
        """Score pickled triples `(prompt, response, answer)`; a problem where that fails."""
        self.board.put(samples)
        verdicts: dict[int, Problem | Score] = {}
        jobs, deaths = [range(len(samples))], 0
        while jobs:
            job = jobs.pop()
            try:
                verdicts |= self._ask(job)
            except _SupervisorEndedError:
                deaths += 1
                jobs += self._divide(job, verdicts, last=deaths >= _MOST_DEATHS)
                self._start()
        scores = self._scores(len(samples)).tolist()
        return [verdicts.get(index, score) for index, score in enumerate(scores)]

    def _ask(self, job: range) -> dict[int, Problem | Score]:
        try:
            self._outlet.send(job)
            while not self._outlet.poll(0.5):
                if processes.wait_for(self._process, 0.0) is not None:
                    raise _SupervisorEndedError
            return self._outlet.recv()
        except (EOFError, ConnectionError):
            raise _SupervisorEndedError from None

    def _divide(self, job: range, verdicts: dict[int, Problem | Score], last: bool) -> list[range]:
        """Halves of a job at which the supervisor ended, until the sample is found that ends it."""
        self.stop()
        if len(job) > 1 and not last:
            return [job[len(job) // 2 :], job[: len(job) // 2]]
        unscored = self._scores(job.stop).isnan()
        verdicts |= {sample: Problem("ended the processes that supervise it") for sample in job if unscored[sample]}
        return []

    def _scores(self, count: int) -> Tensor:
        return torch.frombuffer(self.board.read_scores(count), dtype=torch.float64)

    def _start(self) -> None:
        try:
            self._outlet, theirs = Pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the run has threads; the fork uses none of them
                self._process = os.fork()
        except OSError as error:
            raise NoProcessError(str(error)) from error
        if self._process == 0:
            supervise(self.run, theirs, self.reward, self.board, self.rules)
        theirs.close()
        self.stop = weakref.finalize(self, _stop, self.run, self._process, self._outlet)


def _stop(run: int, supervisor: int, outlet: Connection) -> None:
    """End the supervisor and with it all workers; called at the latest when the run exits."""
    if os.getpid() == run:
        with contextlib.suppress(OSError):
            outlet.send(None)
        if processes.wait_for(supervisor, _PATIENCE_S) is None:
            processes.kill(supervisor)
            processes.wait_for(supervisor, _PATIENCE_S)
    outlet.close()
