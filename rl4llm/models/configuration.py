"""Configuration and tokenizer of a model: everything that is known before its weights are read."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from rl4llm.checks import UsageError
from rl4llm.models.decoder import first_layers
from rl4llm.models.names import access, hub_reachable, resolve_model
from rl4llm.models.pretrained import Pretrained, as_pretrained


def reason(error: Exception) -> str:
    """The first line of an error, and the next where the first announces it, as the end of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return (first if len(first) <= 240 else first[:240] + "...").rstrip(".:;, ")


def load_config(model: Pretrained) -> PreTrainedConfig:
    """Load the configuration of a causal language model, cut to its first layers if asked.

    Raises:
        UsageError: If there is no such model, or it is of a kind that cannot be a policy or a critic.
    """
    where = resolve_model(model.name)
    try:
        config = AutoConfig.from_pretrained(where, **access(model.name, trust_remote_code=model.trust_remote_code))
    except Exception as error:
        raise _no_config(model.name, where, error) from error
    brought = model.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or ())
    if not brought and not _writes_from_left_to_right(config):
        raise UsageError(
            f"model '{model.name}' is of type '{config.model_type}', which is no causal language model; "
            "take one that writes from left to right."
        )
    return config if model.layers is None else first_layers(config, model.layers, model.name)


def _writes_from_left_to_right(config: PreTrainedConfig) -> bool:
    """Whether it is a causal language model: known as one, without encoder, and not BERT, which counts as one."""
    try:
        config.get_text_config()
    except ValueError:  # several texts in one model
        return False
    sees_both_sides = type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", True) is False
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder and not sees_both_sides


def _no_config(name: str, where: str, error: Exception) -> UsageError:
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        return UsageError(
            f"model '{name}' brings code of its own (auto_map in config.json), which is never run unasked; take a "
            "model of an architecture that transformers knows, or read that code and set trust_remote_code=true."
        )
    if not Path(where).is_dir() and not hub_reachable():
        return UsageError(
            f"model '{name}' cannot be loaded: it is neither a folder nor in the local cache, and the hub cannot be "
            "reached. Pass a model folder, or download it where there is a network."
        )
    return UsageError(f"model '{name}' cannot be loaded: {reason(error)}. Pass a model folder or a hub name.")


def load_tokenizer(source: str | Pretrained) -> Tokenizer:
    """Load the model's tokenizer.

    Raises:
        UsageError: If the model comes without one, or its files cannot be read.
    """
    model = as_pretrained(source)
    try:
        tokenizer = _load_tokenizer(model)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the tokenizer of model '{model.name}' cannot be loaded: {reason(error)}. "
            "Save it into the model's folder with tokenizer.save_pretrained(folder)."
        ) from error
    # Where the files are missing, transformers makes a tokenizer that knows its special tokens and nothing else.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise UsageError(
            f"model '{model.name}' comes without a tokenizer; save it into the model's folder with "
            "tokenizer.save_pretrained(folder)."
        )
    return tokenizer


def _load_tokenizer(model: Pretrained) -> Any:
    """Load the tokenizer beside the model, or the one beside its adapter, where there is one."""
    where, folder = resolve_model(model.name), getattr(model.adapter, "folder", None)
    if folder is not None and (Path(folder).expanduser() / "tokenizer_config.json").is_file():
        where = str(Path(folder).expanduser())
    options = access(model.name, trust_remote_code=model.trust_remote_code)
    return AutoTokenizer.from_pretrained(where, **options)


def check_vocabulary(config: PreTrainedConfig, tokenizer: Tokenizer, who: str, whose: str) -> None:
    """Raise if the tokenizer gives ids for which the model has no embedding.

    Args:
        config: Of the model.
        tokenizer: Whose ids the model will read.
        who: The model, in the message.
        whose: The tokenizer, in the message.
    """
    needed, size = max(tokenizer.get_vocab().values()) + 1, getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and size < needed:
        raise UsageError(
            f"{who} knows {size} ids, but {whose} gives {needed}; take a model and a tokenizer that belong together."
        )


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the context length of a model; None if its configuration does not state one."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
