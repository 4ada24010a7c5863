"""Tiny models with random weights, in the shapes of five architectures."""

from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    Qwen3Config,
)

from rl4llm.models import Policy, TinyQwen3

CONFIGS = {
    "qwen3": lambda **ids: Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True, **ids),
    "llama": lambda **ids: LlamaConfig(**SIZES, tie_word_embeddings=False, **ids),
    "gemma3": lambda **ids: Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=4, final_logit_softcapping=5.0, query_pre_attn_scalar=8, **ids
    ),
    "gpt2": lambda **ids: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **ids),
    "phi3": lambda **ids: Phi3Config(**SIZES, tie_word_embeddings=False, **ids),
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def architecture(name):
    """A model of this architecture and the tokenizer of `TinyQwen3`."""
    tokenizer = TinyQwen3().build()[1]
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CONFIGS[name](vocab_size=len(tokenizer), **ids)
    return AutoModelForCausalLM.from_config(config), tokenizer


def saved_architecture(name, folder):
    Policy(*architecture(name)).save(folder)
    return str(folder)
