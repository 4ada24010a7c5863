"""Models as values: Hugging Face causal language models, from the hub, from a folder, embedded or made from nothing."""

from rl4llm.models.compatibility import check_compatible, check_context
from rl4llm.models.configuration import load_tokenizer
from rl4llm.models.decoder import decoder_layers
from rl4llm.models.loading import load_causal_lm
from rl4llm.models.lora import LoRA
from rl4llm.models.names import resolve_model
from rl4llm.models.policy import ModelSource, Policy
from rl4llm.models.pretrained import Adapter, Pretrained, as_pretrained
from rl4llm.models.sources import check_model, load_backbone
from rl4llm.models.tiny import TinyQwen3

__all__ = [
    # what names a model
    "Pretrained",
    "Adapter",
    "LoRA",
    "ModelSource",
    "as_pretrained",
    "resolve_model",
    # models
    "Policy",
    "TinyQwen3",
    "load_causal_lm",
    "load_backbone",
    "load_tokenizer",
    "decoder_layers",
    # checks
    "check_model",
    "check_compatible",
    "check_context",
]
