"""Scoring in worker processes: a reward is foreign code that may do anything, and the run has to survive it."""

import inspect
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rl4llm.checks import check_at_least, check_interval
from rl4llm.rewards.base import Reward, Verifier, score_here
from rl4llm.rewards.crew import Crew, NoProcessError
from rl4llm.rewards.scores import Scores, Verdict, scores_of
from rl4llm.rewards.verdicts import LARGEST_SCORE
from rl4llm.rewards.worker import Rules

_MOST_WORKERS = 32  # that are started by default
_SLOW_S = 15.0  # a batch that takes longer is worth a word


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

    def rules(self) -> Rules:
        """The limits in the units of the processes that keep them."""
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
        >>> scorer.score(lambda prompt, response, answer: response == answer, ["", ""], ["1", "2"], ["1", "1"]).scores
        tensor([1., 0.])
        >>> scorer.close()
    """

    def __init__(self, scoring: Scoring | None = None) -> None:
        self.scoring = scoring or Scoring()
        self._crew: Crew | None = None
        self._reward: Reward | None = None
        self._details: dict[str, str] = {}
        self._lock = threading.Lock()
        self._warned = self._told = False

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
            why, started = self._without_workers(), time.monotonic()
            if why is None:
                try:
                    verdicts = self._score_there(reward, samples)
                    self._tell(len(samples), time.monotonic() - started)
                    return scores_of(verdicts, responses, self._details)
                except NoProcessError as error:
                    self._close()
                    why = str(error)
                except BaseException:  # an interrupt of this process: the workers are amid a batch that nobody wants
                    self._close()
                    raise
            self._warn(why)
            return score_here(reward, samples, self.scoring.largest, self._details)

    def _warn(self, why: str) -> None:
        if why and not self._warned:
            warnings.warn(
                f"Scorer: no worker processes can be started ({why}); rewards run in this process, without limits.",
                stacklevel=3,
            )
            self._warned = True

    def _tell(self, count: int, seconds: float) -> None:
        """Say once that scoring is slow, and what makes it faster."""
        if seconds > _SLOW_S and not self._told:
            workers = self.scoring.rules().workers
            warnings.warn(
                f"Scorer: scoring {count} responses took {seconds:.0f} s with {workers} worker processes; raise "
                "--model.scoring.workers if the reward waits rather than computes.",
                stacklevel=3,
            )
            self._told = True

    def _without_workers(self) -> str | None:
        """Say why there are no workers (`""`: that is the choice); None if there are."""
        if self.scoring.workers == 0:
            return ""
        return None if sys.platform == "linux" else f"they need Linux, and this is {sys.platform}"

    def _score_there(self, reward: Reward, samples: list[Any]) -> list[Verdict]:
        try:
            pickled = [pickle.dumps(sample, pickle.HIGHEST_PROTOCOL) for sample in samples]
        except Exception:  # what cannot be sent is handed over by the fork itself
            self._close()
            pickled = [pickle.dumps((None, str(index), None)) for index in range(len(samples))]
            return self._crew_for(lambda _, index, __: reward(*samples[int(index)])).score(pickled)
        return self._crew_for(reward).score(pickled)

    def _crew_for(self, reward: Any) -> Crew:
        if self._crew is None or self._crew.run != os.getpid() or not _same(reward, self._reward):
            self._close()
            if isinstance(reward, Verifier):
                reward.prepare()
            self._crew, self._reward = Crew(reward, self.scoring.rules()), reward
        return self._crew

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
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or ""
    return min(_MOST_WORKERS, max(2, cores // max(1, int(ranks) if ranks.isdecimal() else 1)))
