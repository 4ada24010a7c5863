"""Rollouts: engines that draw responses, and how tokens are drawn."""

from rl4llm.rollouts.base import Responses, RolloutEngine, decode, decode_pieces, decode_responses
from rl4llm.rollouts.dynamic_sampling import Collector, DynamicSampling
from rl4llm.rollouts.hugging_face import HuggingFaceRollout
from rl4llm.rollouts.prompts import encode_prompts
from rl4llm.rollouts.sampling import Sampling

__all__ = [
    # engines
    "RolloutEngine",
    "HuggingFaceRollout",
    "Responses",
    # choices
    "Sampling",
    "DynamicSampling",
    "Collector",
    # between text and ids
    "encode_prompts",
    "decode",
    "decode_responses",
    "decode_pieces",
]
