"""From a model's name to its weights and tokenizer: one code path for hub, local and embedded models."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.checks import UsageError

EMBEDDED = Path(__file__).parent / "embedded"
_PREFIX = "rl4llm/"


def resolve_model(name: str) -> str:
    """Where `from_pretrained` finds the model: `rl4llm/<x>` is embedded in the package, anything else stays as it is.

    Raises:
        UsageError: If an embedded model or a local folder does not exist or holds no config.json.
    """
    if name.startswith(_PREFIX):
        folder = EMBEDDED / name.removeprefix(_PREFIX)
        if not (folder / "config.json").is_file():
            known = ", ".join(sorted(_PREFIX + path.parent.name for path in EMBEDDED.glob("*/config.json")))
            raise UsageError(f"model '{name}' is not embedded in the package; the embedded models are {known}.")
        return str(folder)
    path = Path(name).expanduser()
    looks_local = path.is_dir() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "does not exist"
        raise UsageError(f"model folder '{name}' {what}; pass a folder that save_pretrained wrote, or a hub name.")
    return str(path) if looks_local else name


def _from_pretrained(loader: Any, name: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(resolve_model(name), **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"model '{name}' cannot be loaded: {reason} Pass a model folder or a hub name.") from error


def check_model(name: str) -> None:
    """Raise one clear line, before any weight is read, if there is no such model."""
    _from_pretrained(AutoConfig, name)


def load_tokenizer(name: str) -> Tokenizer:
    """The model's tokenizer."""
    return _from_pretrained(AutoTokenizer, name)


def load_causal_lm(name: str) -> PreTrainedModel:
    """The model with its language-model head, in float32 (the Trainer's `precision` decides otherwise)."""
    return without_dropout(_from_pretrained(AutoModelForCausalLM, name, dtype="float32"))


def load_backbone(name: str) -> PreTrainedModel:
    """The model without its head, in float32."""
    return without_dropout(_from_pretrained(AutoModel, name, dtype="float32"))


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in train mode, dropping nothing: a dropped unit would make the first ratio differ from 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model.train()


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward takes the argument."""
    return argument in inspect.signature(model.forward).parameters


def context_length(model: PreTrainedModel) -> int | None:
    """Positions the model was made for; None where its configuration does not say."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def end_of_sequence_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """Every id that ends a response: the generation configuration's and the tokenizer's."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = declared if isinstance(declared, list) else [declared]
    return sorted({ident for ident in [*listed, tokenizer.eos_token_id] if ident is not None})
