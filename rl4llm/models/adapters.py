"""Models with adapters in their layers: which weights are whose, and what they are merged into."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rl4llm.checks import UsageError

ACTIVE = "<active>"  # the name of whichever adapter computes


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
def engine_weights(model: nn.Module, *, adapter: str | None = ACTIVE) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a Hugging Face model as if it had no adapter: each adapted layer is merged on the fly.

    The names are those of the model without adapter, tied weights are yielded under each of their names, and a merged
    tensor has the dtype of the layer that it belongs to. One layer is merged at a time, in a copy, so the model itself
    stays as it is and at most one layer takes additional memory.

    Args:
        model: The model, with or without an adapter; its weights must be whole on this rank.
        adapter: Name of the adapter that is merged; None: none is, so the weights are those of the model underneath.
            By default it is the one that computes.

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
        for name, weight in merged_layer(layer, adapter).named_parameters():
            yield f"{path}.{name}", weight


@torch.no_grad()
def merged_layer(layer: Any, adapter: str | None = ACTIVE) -> nn.Module:
    """Return a layer of the model as if it had no adapter: a merged copy, or the layer itself if nothing is merged.

    Args:
        layer: A layer of peft; its sharded weights are gathered.
        adapter: As for [engine_weights][].
    """
    active = [] if layer.disable_adapters else layer.active_adapters
    names = active if adapter == ACTIVE else [] if adapter is None else [adapter]
    if names:
        layer = copy.deepcopy(layer)
        for owner in layer.modules():
            for name, weight in owner.named_parameters(recurse=False):
                if isinstance(weight, DTensor):
                    setattr(owner, name, nn.Parameter(weight.full_tensor(), requires_grad=False))
        layer.merge(adapter_names=names)
    return layer.get_base_layer()


def _own_parameters(layers: dict[str, Any]) -> set[str]:
    """Return the names of the adapters' parameters."""
    return {
        f"{path}.{name}"
        for path, layer in layers.items()
        for name, _ in layer.named_parameters()
        if not name.startswith("base_layer.")
    }


@runtime_checkable
class Adapted(Protocol):
    """A `PeftModel`, which holds a model with adapters in its layers."""

    def get_base_model(self) -> Any:
        """Return the model inside."""


def unwrapped(adapted: Adapted) -> PreTrainedModel:
    """Return the Hugging Face model inside a `PeftModel`, with its active adapter trained and all else frozen.

    Raises:
        UsageError: If the adapter is of a kind that is not in the model's layers, if several are active, or if weights
            beside it are trained.
    """
    model, kind = adapted.get_base_model(), type(adapted).__name__
    layers = adapter_layers(model)
    if not layers:
        raise UsageError(f"the adapter of the {kind} is not in the model's layers; use LoRA or another kind that is.")
    name, own = active_adapter(model), _own_parameters(layers)
    beside = [n for n, weight in model.named_parameters() if weight.requires_grad and n not in own]
    if beside:
        raise UsageError(
            f"the {kind} trains {beside[0]} beside its adapter; make it without modules_to_save and bias, or merge it "
            "with merge_and_unload() and train all weights."
        )
    for layer in layers.values():
        layer.set_adapter(name)
    return model
