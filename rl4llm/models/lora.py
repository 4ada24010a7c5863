"""`LoRA`: low-rank adapters in the layers of a frozen model, by the peft library."""

import math
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rl4llm.checks import UsageError, check_at_least, check_interval
from rl4llm.models.pretrained import Adapter

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685), the only weights that are trained.

        W x  →  W x + s · B A x        s = alpha / rank, or alpha / √rank where `rank_stabilized`

    B starts at 0, so training starts at the pretrained model. The model's own weights are frozen and shared with the
    reference policy, which is the model with its adapter switched off. Adapters hold float32 weights whatever the dtype
    of the model. There is no dropout: a dropped unit would make the first ratio of an update differ from 1.

    Args:
        rank: Rank of the product B A.
        alpha: Numerator of the scale s.
        targets: Names of the linear layers that get an adapter, such as `[q_proj, v_proj]`; "all-linear": every linear
            layer except the language-model head.
        rank_stabilized: Divide alpha by √rank instead of by the rank (Kalajdzievski, 2023, arXiv:2312.03732).
        seed: Of the initial A.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: str | list[str] | tuple[str, ...] = ALL_LINEAR
    rank_stabilized: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("LoRA", 1, rank=self.rank)
        check_interval("LoRA", 0.0, math.inf, "()", alpha=self.alpha)
        names = [self.targets] if isinstance(self.targets, str) else list(self.targets)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise UsageError(f"LoRA: targets must name linear layers, got {self.targets!r}; leave it at 'all-linear'.")
        object.__setattr__(self, "targets", self.targets if self.targets == ALL_LINEAR else tuple(names))

    def check(self, model: PreTrainedModel) -> None:
        """Raise if peft is not installed or a target names no linear layer of the model."""
        require_peft("LoRA")
        layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)]
        linear = [name.removesuffix(".base_layer") for name in layers if ".lora_" not in name]
        for target in () if self.targets == ALL_LINEAR else self.targets:
            if not any(name == target or name.endswith(f".{target}") for name in linear):
                known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
                raise UsageError(
                    f"LoRA: {type(model).__name__} has no linear layer named '{target}'; its linear layers are {known}."
                )

    def wrap(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put the adapters into the model's layers and freeze everything else."""
        self.check(model)
        from peft import LoraConfig

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            use_rslora=self.rank_stabilized,
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return inject(model, config, "default")


def require_peft(by: str) -> None:
    """Raise one line that names the optional extra if peft is not installed."""
    if find_spec("peft") is None:
        raise UsageError(f"{by} needs the package peft, which is not installed; run pip install 'rl4llm[lora]'.")


def inject(model: PreTrainedModel, config: Any, name: str) -> PreTrainedModel:
    """Put an adapter of peft into the model's layers, in place; its weights are float32 and trained.

    The model stays the object and the class that it was, so everything that reads a Hugging Face model reads it.

    Args:
        model: The model.
        config: A configuration of peft.
        name: Of the adapter.
    """
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # several adapters are meant
        inject_adapter_in_model(config, model, adapter_name=name)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
