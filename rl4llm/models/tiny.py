"""A language model made from nothing: a small Qwen3 and a tokenizer of single characters."""

from dataclasses import dataclass

import torch
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rl4llm.checks import UsageError, check_at_least

_PAD, _EOS = "<pad>", "<eos>"


@dataclass(frozen=True)
class TinyQwen3:
    """An untrained Qwen3 over single characters: an ordinary Hugging Face model and tokenizer, only small.

    Args:
        characters: Every character that prompts and responses may hold.
        hidden_size: Width.
        layers: Depth.
        heads: Attention heads.
        key_value_heads: Key-value heads.
        head_size: Width of a head.
        context: Longest prompt and response together.
        seed: Of the initial weights.
    """

    characters: str = "0123456789=()."
    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    head_size: int = 32
    context: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "layers", "heads", "key_value_heads", "head_size", "context")
        check_at_least("TinyQwen3", 1, **{name: getattr(self, name) for name in sizes})
        if len(set(self.characters)) != len(self.characters):
            raise UsageError(f"TinyQwen3: characters must differ, got {self.characters!r}.")

    def build(self) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
        """The model with random weights, and its tokenizer."""
        tokenizer = _character_tokenizer(self.characters)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=3 * self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_size,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return Qwen3ForCausalLM(config), tokenizer


def _character_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([_PAD, _EOS, *characters])}
    fast = FastTokenizer(models.WordLevel(vocabulary, unk_token=_PAD))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    fast.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token=_PAD, eos_token=_EOS, padding_side="left")
