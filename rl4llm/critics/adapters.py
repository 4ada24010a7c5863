"""`AdapterCritics`: several critics over one frozen model, each with an adapter and a head of its own."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from rl4llm.checks import UsageError
from rl4llm.critics.ensemble_spec import EMBEDDED_CRITIC, EnsembleSpec, check_readable
from rl4llm.critics.heads import Head, LinearHead
from rl4llm.critics.losses import ValueLoss
from rl4llm.critics.value_model import Inputs, ValueModel
from rl4llm.models import (
    LoRA,
    ModelSource,
    Policy,
    Pretrained,
    check_context,
    check_model,
    load_backbone,
)
from rl4llm.models.adapters import has_adapter
from rl4llm.models.sharing import frozen_twin
from rl4llm.models.sources import describe, plain


@dataclass(frozen=True)
class AdapterCritics(EnsembleSpec):
    """Several critics over one frozen model, with a low-rank adapter and a value head each.

        Wₘ x = W x + s · Bₘ Aₘ x        Vₘ(sₜ) = value by head m of the last hidden state under Wₘ

    All critics hold the same tensors W, which nobody trains, so M critics take the memory of one model, and gradients
    and optimizer states are those of adapters and heads. B starts at 0, so all critics start with the model's own
    hidden states; their heads and their A differ from the first step on. In everything else they are
    [MiniCritics][rl4llm.critics.mini.MiniCritics].

    Args:
        model: The frozen model below all critics: a hub name, a folder, an embedded model, or a `Pretrained`; from
            Python a model object too. None: the frozen model below the policy's own adapter, which costs no memory.
        adapter: The adapter of each critic; critic m draws its A with the adapter's seed + m.
        size: M, how many critics.
        shards: What each learns from: its part of every prompt's responses ("group"), whole prompts ("prompt"), a part
            of the batch at random ("random"), or all of it ("shared").
        aggregate: The estimator's value: "mean" or "min" over critics, or that of the "first" alone.
        head: How a critic's outputs say a value.
        loss: Value loss of one token, on the values; None for the head's own.
        inputs: What a critic reads: the prompt and the response so far ("prefix"), or the prompt alone ("prompt"), with
            one value for all tokens of a response and one term of the loss per response.
        head_scale: Scale of the new heads' weights; 0 starts all values at the head's middle.
        seed: Of the heads; critic m draws its head with seed + m.

    Example:
        >>> critics = AdapterCritics("rl4llm/digits-critic", LoRA(rank=4), size=2).build("rl4llm/digits").critics
        >>> one, other = (critic.backbone.embed_tokens.weight for critic in critics)
        >>> one is other
        True
    """

    model: "str | Pretrained | None" = EMBEDDED_CRITIC  # a string, so that no type checker refuses an object
    adapter: LoRA = LoRA()
    size: int = 2
    shards: Literal["group", "prompt", "random", "shared"] = "group"
    aggregate: Literal["mean", "min", "first"] = "mean"
    head: Head = LinearHead()
    loss: ValueLoss | None = None
    inputs: Inputs = "prefix"
    head_scale: float = 0.1
    seed: int = 0

    def check_base(self, source: ModelSource) -> None:
        """Raise if the model is missing, has an adapter already, or reads other ids than the policy's."""
        if self.model is None:
            self._check_adapter(source, expected=True)
            return
        self._check_adapter(self.model, expected=False)
        if self.model != source:
            check_readable(source, self.model)

    def _check_adapter(self, source: ModelSource, *, expected: bool) -> None:
        """Raise unless the model has an adapter exactly where expected, can be loaded, and takes the critics' own."""
        base = plain(source)
        found = base.adapter is not None if isinstance(base, Pretrained) else has_adapter(base)
        if expected and not found:
            raise UsageError(
                "AdapterCritics: model=null stands for the frozen model below the policy's adapter, but the policy, "
                f"{describe(source)}, has no adapter; set --model.policy.adapter=LoRA or --model.critics.model."
            )
        if found and not expected:
            raise UsageError(
                f"AdapterCritics: {describe(source)} has an adapter already, and each critic gets one of its own; set "
                "--model.critics.adapter instead, or save the model with its adapter merged."
            )
        if isinstance(base, Pretrained):
            check_model(replace(base, adapter=self.adapter))
        else:
            check_model(source)
            self.adapter.check(base)

    def check_context(self, tokens: int) -> None:
        """Raise if prompts with their responses, where both are read, may be longer than the critics' context."""
        if self.inputs == "prefix" and self.model is not None:
            check_context(self.model, tokens, "critics' base")

    def critics(self, policy: Policy | None) -> list[ValueModel]:
        """Return critics with the same frozen weights, and different heads and adapters."""
        trunk = self._trunk(policy)
        return [self._critic(trunk, number) for number in range(self.size)]

    def _trunk(self, policy: Policy | None) -> Any:
        if self.model is not None:
            return load_backbone(self.model).requires_grad_(False)
        if policy is None:
            raise UsageError("AdapterCritics: model=null stands for the policy's frozen model, and no policy is given.")
        return policy.model.base_model

    def _critic(self, trunk: PreTrainedModel, number: int) -> ValueModel:
        backbone = replace(self.adapter, seed=self.adapter.seed + number).wrap(frozen_twin(trunk))
        generator = torch.Generator().manual_seed(self.seed + number)
        return ValueModel(backbone, self.head, inputs=self.inputs, head_scale=self.head_scale, generator=generator)
