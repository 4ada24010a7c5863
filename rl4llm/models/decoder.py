"""The stack of decoder layers: where it is in a model, and a configuration of its first layers alone."""

import copy

from torch import nn
from transformers import PreTrainedConfig

from rl4llm.checks import UsageError


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a model, first to last.

    They are the largest list of modules whose classes the model names as inseparable (`_no_split_modules`), or, where
    it names none, whose members are of one class.

    Raises:
        UsageError: If the model holds no such list.

    Example:
        >>> from rl4llm.models import TinyQwen3
        >>> tuple(type(layer).__name__ for layer in decoder_layers(TinyQwen3(layers=2).build()[0]))
        ('Qwen3DecoderLayer', 'Qwen3DecoderLayer')
    """
    named = set(getattr(model, "_no_split_modules", None) or ())
    stacks = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    inseparable = [stack for stack in stacks if {type(layer).__name__ for layer in stack} <= named]
    alike = [stack for stack in stacks if len({type(layer) for layer in stack}) == 1]
    found = inseparable or alike
    if not found:
        raise UsageError(f"{type(model).__name__} holds no stack of decoder layers; take a decoder-only model.")
    return max(found, key=_size)


def _size(stack: list[nn.Module]) -> int:
    return sum(parameter.numel() for layer in stack for parameter in layer.parameters())


def first_layers(config: PreTrainedConfig, layers: int, name: str) -> PreTrainedConfig:
    """Return the configuration of a model's first layers, so that other weights are never read.

    Args:
        config: Of the whole model; stays as it is.
        layers: How many are kept.
        name: Of the model, for messages.

    Raises:
        UsageError: If the model has fewer layers, or does not say how many it has.
    """
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise UsageError(f"model '{name}' does not say how many layers it has, so layers={layers} cannot be taken.")
    if layers > depth:
        raise UsageError(f"model '{name}' has {depth} layers, so layers={layers} cannot be taken; lower it.")
    short = copy.deepcopy(config)
    text = short.get_text_config()
    for key, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == depth and ("layer" in key or "block" in key):
            setattr(text, key, value[:layers])
    text.num_hidden_layers = layers
    return short
