"""The reference of a policy with an adapter: the same model, with the adapter off or replaced by a frozen copy."""

import copy
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.models.adapters import active_adapter, adapter_layers, engine_weights, has_adapter, using_adapter
from rl4llm.models.lora import inject
from rl4llm.models.policy import ModelSource, Policy

NAME = "reference"


def reference_of(policy: Policy, source: ModelSource, *, moves: bool) -> Policy:
    """Return the frozen reference of a policy that has just been loaded.

    Without an adapter it is a copy. With an adapter it is the policy's own model, and no second one is held: the
    adapter is switched off if it starts at zero, and otherwise, or if the reference moves later on, a frozen copy of
    the adapter alone computes in its place.

    Args:
        policy: The policy.
        source: What it was loaded from.
        moves: Whether the reference will take over the policy's weights now and then.
    """
    if not has_adapter(policy.model):
        return Policy.copy_of(source).requires_grad_(False)
    return AdaptedReference(policy, copied=moves or not _starts_at_zero(policy.model))


def _starts_at_zero(model: nn.Module) -> bool:
    """Return whether all B of a LoRA adapter are 0; other kinds of adapters are not looked into."""
    name, layers = active_adapter(model), adapter_layers(model).values()
    return all(hasattr(layer, "lora_B") and name in layer.lora_B for layer in layers) and not any(
        layer.lora_B[name].weight.any() for layer in layers
    )


class AdaptedReference(Policy):
    """A policy that computes with another policy's model, which stays the only owner of the weights.

    Args:
        policy: The owner.
        copied: Whether a frozen copy of the adapter computes; otherwise no adapter does.
    """

    def __init__(self, policy: Policy, *, copied: bool) -> None:
        nn.Module.__init__(self)
        self.owner = (policy,)  # a tuple hides it from the list of submodules, and so from checkpoints
        self.tokenizer, self.end_ids, self.pad_id = policy.tokenizer, policy.end_ids, policy.pad_id
        self.value_head = None
        self.trained = active_adapter(policy.model)
        self.name = NAME if copied else None
        if copied:
            _add_copy(policy.model, self.trained)
            self.take(policy)

    @property
    def model(self) -> PreTrainedModel:  # type: ignore[override]
        """The policy's model."""
        return self.owner[0].model

    def named_modules(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules of the policy: where they are and how they are sharded holds for both."""
        return self.owner[0].named_modules(*args, **options)

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which the shared model computes this reference."""
        return using_adapter(self.model, self.name)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the reference's weights under the names of the model without adapter."""
        return engine_weights(self.model, adapter=self.name)

    def forward(self, batch: RolloutBatch, *, temperature: float = 1.0, asks: Collection[str] = ()) -> PolicyOutput:
        """As [Policy.forward][rl4llm.models.policy.Policy.forward], of the reference."""
        with self.computing():
            return super().forward(batch, temperature=temperature, asks=asks)

    @torch.no_grad()
    def take(self, policy: Policy) -> None:
        """Take over the policy's present adapter, as a copy."""
        for layer in adapter_layers(policy.model).values():
            own = dict(layer.named_parameters())
            for name, weight in own.items():
                if f".{self.trained}." in name:
                    own[name.replace(f".{self.trained}.", f".{NAME}.")].copy_(weight)


def _add_copy(model: PreTrainedModel, name: str) -> None:
    """Add a second adapter like the one of this name, which stays active; the new one is frozen."""
    config: Any = copy.copy(model.peft_config[name])
    config.init_lora_weights = True  # zero; no initialization that would change the model
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    with torch.random.fork_rng(devices=[]):
        inject(model, config, NAME)
    for layer in adapter_layers(model).values():
        layer.set_adapter(name)
    model.requires_grad_(False)
    for weight, requires_grad in trained:
        weight.requires_grad_(requires_grad)
