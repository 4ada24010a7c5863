"""Policies: Hugging Face causal language models, from the hub, from a folder, embedded or made from nothing."""

from rl4llm.models.loading import check_model, load_backbone, load_causal_lm, load_tokenizer, resolve_model
from rl4llm.models.policy import Policy
from rl4llm.models.tiny import TinyQwen3

__all__ = ["Policy", "TinyQwen3", "check_model", "load_backbone", "load_causal_lm", "load_tokenizer", "resolve_model"]
