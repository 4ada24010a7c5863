"""Rollouts: engines that draw responses, and how tokens are drawn."""

from rl4llm.models.guard import evaluating
from rl4llm.rollouts.base import Engine, EngineSpec, draw_rollouts
from rl4llm.rollouts.decoding import decode, decode_pieces, decode_responses
from rl4llm.rollouts.drawing import inverse_cdf, response_uniforms
from rl4llm.rollouts.dynamic_sampling import DynamicSampling, DynamicSamplingState
from rl4llm.rollouts.hugging_face import HuggingFaceEngine, HuggingFaceRollout
from rl4llm.rollouts.prompts import encode_prompts, prompt_limit, prompt_tokens
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling
from rl4llm.rollouts.vllm import VLLM, VLLMEngine
from rl4llm.rollouts.vllm_server import VLLMServer, VLLMServerEngine

__all__ = [
    # engines
    "EngineSpec",
    "Engine",
    "HuggingFaceRollout",
    "HuggingFaceEngine",
    "VLLM",
    "VLLMEngine",
    "VLLMServer",
    "VLLMServerEngine",
    "Responses",
    "draw_rollouts",
    # choices
    "Sampling",
    "DynamicSampling",
    "DynamicSamplingState",
    # how tokens are drawn
    "response_uniforms",
    "inverse_cdf",
    "evaluating",
    # between text and ids
    "encode_prompts",
    "prompt_tokens",
    "prompt_limit",
    "decode",
    "decode_responses",
    "decode_pieces",
]
