"""Writing a policy as a folder that any tool reads."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.models.adapters import active_adapter, adapter_layers, merged_layer
from rl4llm.models.peft_folder import save_adapter

ADAPTER = "adapter"


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, *, write: bool) -> None:
    """Write a model and its tokenizer as an ordinary Hugging Face folder, in the dtype of the weights.

    The adapter of a model that has one is merged, and is written as a folder of peft as well: `adapter/`, inside.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where the files go.
        write: Whether this process writes. Every rank must call this where the weights are sharded.
    """
    state = whole_state(model)
    merged = without_adapter(model, state)
    if not write:
        return
    model.save_pretrained(folder, state_dict=merged)
    tokenizer.save_pretrained(folder)
    if merged is not state:
        save_adapter(model, state, active_adapter(model), folder / ADAPTER)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model with every sharded tensor gathered; tied weights stay one tensor."""
    whole: dict[Any, Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, DTensor):
            local = tensor.to_local()
            key = (local.data_ptr(), local.shape) if local.numel() else name
            whole[key] = tensor = whole[key] if key in whole else tensor.full_tensor()
        state[name] = tensor
    return state


def without_adapter(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a whole state with the adapter merged, under the names of the model without it."""
    layers = adapter_layers(model)
    if not layers:
        return state
    inside = tuple(f"{path}." for path in layers)
    plain = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    for path, layer in layers.items():
        plain |= {f"{path}.{name}": weight.detach() for name, weight in merged_layer(layer).named_parameters()}
    return plain
