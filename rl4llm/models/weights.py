"""Reading weights: whole files, every tensor present and of its shape, every number finite."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from rl4llm.checks import UsageError
from rl4llm.models.configuration import load_config, reason
from rl4llm.models.decoder import decoder_layers
from rl4llm.models.names import access, resolve_model
from rl4llm.models.outline import loads_outlines
from rl4llm.models.pretrained import Pretrained
from rl4llm.models.weight_files import check_files


def load_weights(loader: Any, model: Pretrained) -> PreTrainedModel:
    """Load a model with exactly the weights of its files.

    Args:
        loader: `AutoModelForCausalLM` or `AutoModel`.
        model: What to load, and how.

    Raises:
        UsageError: If a file is damaged, a tensor is missing or of another shape, or a number is not finite.
    """
    model.check_attention()
    config = load_config(model)
    check_files(model)
    options = access(model.name, trust_remote_code=model.trust_remote_code)
    if model.attention is not None:
        options["attn_implementation"] = model.attention
    if loads_outlines():
        return _outline(loader, model)
    try:
        with _quiet():
            loaded, info = loader.from_pretrained(
                resolve_model(model.name),
                config=config,
                dtype=model.dtype or "float32",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **options,
            )
    except Exception as error:
        if "weights_only" in str(error):
            why = "they hold pickled code, which is never run; take a model in safetensors"
        else:
            why = reason(error)
        raise UsageError(f"the weights of model '{model.name}' cannot be loaded: {why}.") from error
    _check_loaded(model, info, with_head=loaded.base_model is not loaded)
    if model.layers is not None and len(decoder_layers(loaded)) != model.layers:
        raise UsageError(f"model '{model.name}': its first layers alone cannot be taken; leave out layers.")
    check_finite(loaded, f"model '{model.name}'")
    return loaded


def _outline(loader: Any, model: Pretrained) -> PreTrainedModel:
    """Build the modules of the model's configuration on the meta device."""
    options: dict[str, Any] = {"dtype": getattr(torch, model.dtype or "float32")}
    if model.attention is not None:
        options["attn_implementation"] = model.attention
    with torch.device("meta"):
        outline = loader.from_config(load_config(model), trust_remote_code=model.trust_remote_code, **options)
    outline.tie_weights()  # transformers 5.0 does not do so on the meta device
    return outline


def _check_loaded(model: Pretrained, info: dict[str, Any], *, with_head: bool) -> None:
    if info["missing_keys"]:
        raise UsageError(
            f"model '{model.name}': its weights lack {_listed(info['missing_keys'])}, which would start at random; "
            "save the whole model again with save_pretrained."
        )
    other_shape = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    if other_shape:
        raise UsageError(
            f"model '{model.name}': the shape in its weights is not that of config.json for {_listed(other_shape)}; "
            "weights and config.json are of different models."
        )
    if info["error_msgs"]:
        raise UsageError(f"the weights of model '{model.name}' cannot be loaded: {info['error_msgs'][0]}.")
    if with_head and model.layers is None and info["unexpected_keys"]:
        warnings.warn(
            f"model '{model.name}': its weights hold {_listed(info['unexpected_keys'])}, for which the architecture "
            "of config.json has no place; left out.",
            stacklevel=2,
        )


def _listed(names: Collection[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table that transformers prints of missing and unexpected tensors: it is judged and said in a line."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@torch.no_grad()
def check_finite(model: nn.Module, who: str) -> None:
    """Raise if a weight is NaN or infinite, by the tensor's name."""
    for name, weight in model.named_parameters():
        if weight.numel() and not weight.is_meta and not _finite(weight):
            raise UsageError(
                f"{who}: {name} holds NaN or infinite numbers as {str(weight.dtype).removeprefix('torch.')}; take "
                "weights from before they broke, or a wider dtype."
            )


def _finite(weight: Tensor) -> bool:
    return all(bool(bound.isfinite()) for bound in weight.aminmax())  # NaN wins both
