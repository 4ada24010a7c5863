"""`frozen_twin`: a second model around the same frozen weights."""

import copy

from transformers import PreTrainedModel

from rl4llm.models.adapters import adapter_layers


def frozen_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return modules of their own around the frozen weights of a model, without its adapters.

    No frozen weight is copied: both models hold the same tensors, so the twin takes the memory of its module objects
    alone. Weights that the model trains beside its adapters are copied as they are now. All weights of the twin are
    frozen; an adapter that is put into it is its own.

    Args:
        model: A model whose weights are frozen, with or without adapters; it stays as it is.

    Example:
        >>> from rl4llm.models import TinyQwen3
        >>> trunk = TinyQwen3(layers=1).build()[0].base_model.requires_grad_(False)
        >>> twin = frozen_twin(trunk)
        >>> twin is trunk, twin.embed_tokens.weight is trunk.embed_tokens.weight
        (False, True)
    """
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    twin = copy.deepcopy(model, shared)
    for name, layer in adapter_layers(twin).items():
        twin.set_submodule(name, layer.get_base_layer())
    vars(twin).pop("peft_config", None)
    return twin.requires_grad_(False)
