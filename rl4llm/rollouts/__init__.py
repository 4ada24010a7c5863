"""Rollouts: engines that draw responses, and how tokens are drawn."""

from rl4llm.rollouts.base import RolloutEngine
from rl4llm.rollouts.hugging_face import HuggingFaceRollout, decode_responses
from rl4llm.rollouts.prompts import encode_prompts
from rl4llm.rollouts.sampling import Sampling

__all__ = ["HuggingFaceRollout", "RolloutEngine", "Sampling", "decode_responses", "encode_prompts"]
