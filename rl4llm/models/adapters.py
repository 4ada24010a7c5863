"""Models with adapters in their layers: which weights are whose, and what they are merged into."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rl4llm.checks import UsageError


def adapter_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers of peft inside a model, by name; none where the model has no adapter."""
    if "peft" not in sys.modules:  # where it was never imported, it is in no model
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}


def has_adapter(model: nn.Module) -> bool:
    """Return whether an adapter of peft is in the model's layers."""
    return bool(adapter_layers(model))


def active_adapter(model: nn.Module) -> str:
    """Return the name of the one adapter that computes.

    Raises:
        UsageError: If several do.
    """
    names = {name for layer in adapter_layers(model).values() for name in layer.active_adapters}
    if len(names) != 1:
        raise UsageError(
            f"{type(model).__name__}: {len(names)} adapters are active ({', '.join(sorted(names))}), and one is "
            "trained; choose it with set_adapter."
        )
    return names.pop()


def base_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that are the model's own and frozen beside an adapter; none without one.

    They are those that a checkpoint need not hold, since loading the model brings them.
    """
    own = _own_parameters(adapter_layers(model))
    found = model.named_parameters(remove_duplicate=False)
    return {name for name, weight in found if own and not weight.requires_grad and name not in own}


@contextmanager
def using_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Run the body with one adapter of the model, or with none, and restore what was active and what is trained.

    Args:
        model: A model with adapters; any other model is left alone.
        name: Of the adapter that computes; None: the model computes as if it had no adapter.
    """
    layers = adapter_layers(model).values()
    before = [(layer, list(layer.active_adapters), layer.disable_adapters) for layer in layers]
    trained = [(weight, weight.requires_grad) for weight in model.parameters()] if before else []
    try:
        for layer, _, _ in before:
            _switch(layer, [] if name is None else [name], off=name is None)
        yield
    finally:
        for layer, active, off in before:
            _switch(layer, active, off=off)
        for weight, requires_grad in trained:  # peft freezes adapters that do not compute
            weight.requires_grad_(requires_grad)


def _switch(layer: Any, active: list[str], *, off: bool) -> None:
    if active:
        layer.set_adapter(active)
    layer.enable_adapters(not off)


@torch.no_grad()
def engine_weights(model: nn.Module, *, adapter: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a Hugging Face model as if it had no adapter: each adapted layer is merged on the fly.

    The names are those of the model without adapter, tied weights are yielded under each of their names, and a merged
    tensor has the dtype of the layer that it belongs to. One layer is merged at a time, in a copy, so the model itself
    stays as it is and at most one layer takes additional memory.

    Args:
        model: The model, with or without an adapter; its weights must be whole on this rank.
        adapter: Whether the active adapter is merged; otherwise the weights are those of the model underneath.

    Example:
        >>> from rl4llm.models import LoRA, TinyQwen3
        >>> plain = [name for name, _ in TinyQwen3().build()[0].named_parameters(remove_duplicate=False)]
        >>> adapted = LoRA(rank=2).wrap(TinyQwen3().build()[0])
        >>> sorted(plain) == sorted(name for name, _ in engine_weights(adapted))
        True
    """
    layers = adapter_layers(model)
    inside = {f"{path}.{name}" for path, layer in layers.items() for name, _ in layer.named_parameters()}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name not in inside:
            yield name, weight
    for path, layer in layers.items():
        for name, weight in _merged(layer, merge=adapter).named_parameters():
            yield f"{path}.{name}", weight


def _merged(layer: Any, *, merge: bool) -> nn.Module:
    if not merge or layer.disable_adapters:
        return layer.get_base_layer()
    layer = copy.deepcopy(layer)
    layer.merge(adapter_names=layer.active_adapters)
    return layer.get_base_layer()


def _own_parameters(layers: dict[str, Any]) -> set[str]:
    """Return the names of the adapters' parameters."""
    return {
        f"{path}.{name}"
        for path, layer in layers.items()
        for name, _ in layer.named_parameters()
        if not name.startswith("base_layer.")
    }
