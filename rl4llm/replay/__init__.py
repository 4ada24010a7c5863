"""Replay: earlier responses come back beside fresh ones, with the log-probs of the policy that made them."""

from rl4llm.replay.base import Replay, ReplaySpec
from rl4llm.replay.buffer import BufferSpec, ReplayBuffer
from rl4llm.replay.fifo import FIFOReplay
from rl4llm.replay.success import SuccessReplay

__all__ = [
    # The family
    "Replay",
    "ReplaySpec",
    # The shared store
    "BufferSpec",
    "ReplayBuffer",
    # Whole groups, the newest
    "FIFOReplay",
    # Single successes of each prompt
    "SuccessReplay",
]
