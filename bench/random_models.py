"""Models of random weights in the shapes of real ones, written as folders that every library loads."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3Config

from rl4llm.models import Policy, TinyQwen3

RARE = 0x20000  # the first of the characters that stand for all further tokens


def qwen3_half_billion(layers: int = 24) -> Qwen3Config:
    """Return the configuration of a Qwen3 of 0.49 billion weights, with the sizes of Qwen2.5-0.5B."""
    return Qwen3Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )


def save(config: PreTrainedConfig, folder: Path) -> str:
    """Write a model with random weights and a tokenizer in which every token is one character; return its folder."""
    characters = TinyQwen3().characters
    rare = "".join(chr(RARE + index) for index in range(config.vocab_size - len(characters) - 2))
    _, tokenizer = TinyQwen3(characters + rare, hidden_size=8, layers=1, heads=1, key_value_heads=1).build()
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id, None
    torch.manual_seed(0)
    Policy(AutoModelForCausalLM.from_config(config), tokenizer).save(folder)
    return str(folder)


def product_weights(model: nn.Module) -> int:
    """Count the weights of all linear layers, a tied head included: what each token is multiplied by."""
    return sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
