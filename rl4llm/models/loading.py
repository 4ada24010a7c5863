"""From the description of a model to a module that is ready to train, by one path for hub, local and embedded ones."""

import inspect

from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.checks import UsageError
from rl4llm.models.configuration import context_of
from rl4llm.models.pretrained import Pretrained, as_pretrained
from rl4llm.models.rms_norm import with_own_norms
from rl4llm.models.weights import load_weights


def load_causal_lm(source: str | Pretrained) -> PreTrainedModel:
    """Load the model with its language-model head, without dropout."""
    model = as_pretrained(source)
    return _prepared(load_weights(AutoModelForCausalLM, model), model)


def load_headless(source: str | Pretrained) -> PreTrainedModel:
    """Load the model without its head, without dropout."""
    model = as_pretrained(source)
    return _prepared(load_weights(AutoModel, model), model)


def _prepared(model: PreTrainedModel, choice: Pretrained) -> PreTrainedModel:
    with_own_norms(model)
    if choice.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise UsageError(
                f"model '{choice.name}': {type(model).__name__} cannot checkpoint gradients; set "
                "gradient_checkpointing=false."
            )
        # transformers renamed it within version 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return without_dropout(model if choice.adapter is None else choice.adapter.wrap(model.train()))


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


def cache_argument(model: nn.Module) -> str:
    """Return the name under which the model's forward takes a cache; transformers renamed it within version 5."""
    return "cache" if accepts(model, "cache") else "past_key_values"


def context_length(model: PreTrainedModel) -> int | None:
    """Positions the model was made for; None where its configuration does not say."""
    return context_of(model.config)


def end_of_sequence_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """Every id that ends a response: the generation configuration's and the tokenizer's."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = declared if isinstance(declared, list) else [declared]
    return sorted({ident for ident in [*listed, tokenizer.eos_token_id] if ident is not None})
