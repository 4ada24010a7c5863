"""Before a run starts: how much memory it will take, and whether it fits."""

from rl4llm.planning.bytes import ModelBytes, Phase, Plan
from rl4llm.planning.plan import plan
from rl4llm.planning.setting import Setting, bytes_of

__all__ = ["Setting", "bytes_of", "plan", "Plan", "ModelBytes", "Phase"]
