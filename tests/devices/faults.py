"""Parts and rewards that go wrong on one rank. `RL4LLM_FAULT=<what>:<rank>` says what happens, at the third call."""

import os
import signal
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rl4llm.checks import UsageError
from rl4llm.data.absolute_difference import answer_after_thinking
from rl4llm.gates import AgreementGate
from rl4llm.models import Policy
from rl4llm.objectives import PPOClip
from rl4llm.rollouts import HuggingFaceEngine, HuggingFaceRollout, Responses

calls = 0


def misbehave() -> None:
    """Do what the environment asks for, at the third call on that rank."""
    global calls
    what, _, rank = os.environ.get("RL4LLM_FAULT", "nothing:0").partition(":")
    calls += 1
    if calls != 3 or int(rank) != rank_zero_only.rank:
        return
    if what == "usage":
        raise UsageError("Part: the flask is empty; fill it.")
    if what == "bug":
        raise ZeroDivisionError("a bug")
    if what in ("SIGKILL", "SIGTERM", "SIGINT"):
        os.kill(os.getpid(), getattr(signal, what))


class FaultyEngine(HuggingFaceEngine):
    """Goes wrong while responses are drawn; the two calls before are those of the evaluation before training."""

    def generate(self, *args: Any, **options: Any) -> Responses:
        misbehave()
        return super().generate(*args, **options)


@dataclass(frozen=True)
class Collecting(HuggingFaceRollout):
    """Goes wrong while responses are collected."""

    def build(self, policy: Policy) -> FaultyEngine:
        return FaultyEngine(policy, rows_at_once=self.rows_at_once, top_log_probs=self.top_log_probs)


@dataclass(frozen=True)
class Judging(AgreementGate):
    """Goes wrong while the batch is judged."""

    def __call__(self, *args: Any) -> Any:
        misbehave()
        return super().__call__(*args)


@dataclass(frozen=True)
class Improving(PPOClip):
    """Goes wrong in an update."""

    def __call__(self, *args: Any) -> Any:
        misbehave()
        return super().__call__(*args)


def scored_on_the_first_rank_only(prompt: str, response: str, answer: str) -> float:
    """The task's reward, except that the other ranks have no verifier."""
    if rank_zero_only.rank:
        raise ValueError("no verifier here")
    return answer_after_thinking(prompt, response, answer)
