"""Scoring in worker processes: a reward is foreign code that may do anything, and the run has to survive it."""

import inspect
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rl4llm.checks import check_at_least, check_interval
from rl4llm.rewards.base import Reward, Scores, score_responses
from rl4llm.rewards.verdicts import LARGEST_SCORE, count_problems

if TYPE_CHECKING:
    from rl4llm.rewards.crew import Crew
    from rl4llm.rewards.worker import Rules

_MOST_WORKERS = 32  # that are started by default


@dataclass(frozen=True)
class Scoring:
    """How rewards are run: in how many worker processes, and within which limits.

    Args:
        workers: Worker processes of each rank. None starts one per CPU core that the rank has for itself, at least 2
            and at most 32; 0 calls the reward in the process of the run, without any limit, for debugging.
        timeout_s: Time limit of each call in seconds, by the clock on the wall.
        largest: Largest magnitude of a score; beyond it, a response counts as unscorable. Squares of scores up to the
            default, summed over any batch, fit into float32.
        memory_gib: Most memory by which a worker, with its child processes, may grow.
        keep_children: Whether processes that a call leaves running live on until the scorer is closed, as a reward
            that keeps a server of its own needs it. By default they are ended when the call returns.
    """

    workers: int | None = None
    timeout_s: float = 10.0
    largest: float = LARGEST_SCORE
    memory_gib: float = 8.0
    keep_children: bool = False

    def __post_init__(self) -> None:
        check_at_least("Scoring", 0, workers=self.workers)
        check_interval("Scoring", 0.0, ends="()", timeout_s=self.timeout_s, memory_gib=self.memory_gib)
        check_interval("Scoring", 0.0, 1e18, ends="(]", largest=self.largest)

    def rules(self) -> "Rules":
        """The limits in the units of the processes that keep them."""
        from rl4llm.rewards.worker import Rules  # needs Linux

        workers = _share_of_cores() if self.workers is None else self.workers
        return Rules(workers, self.timeout_s, self.largest, self.memory_gib * 2**30, self.keep_children)

    def build(self) -> "Scorer":
        """Build the scorer; no process starts before it is used."""
        return Scorer(self)


class Scorer:
    """Scores responses in worker processes, which start with the first batch and are kept for the next.

    Args:
        scoring: The limits.

    Example:
        >>> scorer = Scoring(workers=2).build()
        >>> scorer.score(lambda prompt, response, answer: response == answer, ["", ""], ["1", "2"], ["1", "1"])
        Scores(scores=tensor([1., 0.]), problems={})
        >>> scorer.close()
    """

    def __init__(self, scoring: Scoring | None = None) -> None:
        self.scoring = scoring or Scoring()
        self._crew: Crew | None = None
        self._reward: Reward | None = None
        self._details: dict[str, str] = {}
        self._lock = threading.Lock()
        self._warned = False

    def __reduce__(self) -> Any:
        return Scorer, (self.scoring,)

    def score(self, reward: Reward, prompts: Sequence[Any], responses: Sequence[str], answers: Sequence[Any]) -> Scores:
        """Score every response; each fault costs the response that met it, and nothing else.

        The workers see the reward as it was when they started. They start anew when another reward comes.

        Args:
            reward: The verifier.
            prompts: One prompt per response.
            responses: Decoded responses.
            answers: What the verifier compares with, one per response.

        Returns:
            One score per response, and the number of unscorable responses by reason. A reason names the first case of
            its kind in the life of the scorer, so that the same kind has the same reason in every batch.
        """
        samples = list(zip(prompts, responses, answers, strict=True))
        if not samples:
            return Scores(torch.zeros(0), {})
        with self._lock:
            try:
                crew, pickled = self._prepare(reward, samples)
                if crew is None:
                    return score_responses(reward, prompts, responses, answers, largest=self.scoring.largest)
                scores, problems = crew.score(pickled)
            except BaseException:  # interrupted: the workers are in the middle of a batch that nobody wants
                self._close()
                raise
        return Scores(scores, count_problems(problems, self._details))

    def _prepare(self, reward: Reward, samples: list[Any]) -> tuple["Crew | None", list[bytes]]:
        """The workers for a reward, None if there are none, and the samples as they are sent to them."""
        if self.scoring.workers == 0:
            return None, []
        if sys.platform != "linux":
            self._warn(f"they need Linux, and this is {sys.platform}")
            return None, []
        try:
            pickled = [pickle.dumps(sample, pickle.HIGHEST_PROTOCOL) for sample in samples]
        except Exception:  # what cannot be sent is handed over by the fork itself
            self._close()
            pickled = [pickle.dumps((None, str(index), None)) for index in range(len(samples))]
            return self._crew_for(lambda _, index, __: reward(*samples[int(index)])), pickled
        return self._crew_for(reward), pickled

    def _crew_for(self, reward: Any) -> "Crew | None":
        if self._crew is not None and self._crew.run == os.getpid() and _same(reward, self._reward):
            return self._crew
        from rl4llm.rewards.crew import Crew

        self._close()
        try:
            self._crew, self._reward = Crew(reward, self.scoring.rules()), reward
        except OSError as error:
            self._warn(str(error))
        return self._crew

    def _warn(self, why: str) -> None:
        if not self._warned:
            warnings.warn(
                f"Scorer: no worker processes can be started ({why}); rewards run in this process, without time limit.",
                stacklevel=5,
            )
        self._warned = True

    def close(self) -> None:
        """End all processes; the next batch starts new ones, which see the reward as it is then."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._crew is not None:
            self._crew.stop()
        self._crew = self._reward = None


def _same(reward: Any, other: Any) -> bool:
    """Whether two rewards are one object; each access to a method makes a new one, which compares equal."""
    return reward is other or (inspect.ismethod(reward) and inspect.ismethod(other) and reward == other)


def _share_of_cores() -> int:
    """CPU cores that this process may use, shared with the other ranks of its machine."""
    cores = len(os.sched_getaffinity(0))
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1"
    return min(_MOST_WORKERS, max(2, cores // max(1, int(ranks))))
