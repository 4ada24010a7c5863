"""`Pretrained`: the one description of a model to load; its name alone is the short form."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec

from transformers import PreTrainedModel

from rl4llm.checks import UsageError, check_at_least, check_choice

DTYPES = ("float32", "bfloat16", "float16")
_ATTENTION_PACKAGES = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn.cute",
}


class Adapter(ABC):
    """A frozen choice of small trained weights beside frozen ones. Subclasses are frozen dataclasses."""

    def check(self, model: PreTrainedModel) -> None:  # noqa: B027
        """Raise, before any weight is read, if the adapter does not fit the model; by default it does.

        Args:
            model: The model without weights, on the device `meta`.
        """

    @abstractmethod
    def wrap(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the loaded model with the adapter in place and `requires_grad` set accordingly.

        Args:
            model: The model with its pretrained weights, in train mode.
        """


@dataclass(frozen=True)
class Pretrained:
    """A model to load, and how.

    Args:
        name: Hub name, model folder, embedded model (`rl4llm/...`), or the folder of a LoRA adapter: the model is then
            the one that the adapter names.
        dtype: Of the weights: "float32", "bfloat16" or "float16"; None: float32, which the Trainer's `precision` may
            still change.
        attention: Attention kernel, such as "sdpa", "eager" or "flash_attention_2"; None: the library's choice.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
        adapter: Small trained weights beside frozen ones; None: all weights are trained.
        layers: Keep only the first so many decoder layers; None: all.
        trust_remote_code: Run Python code that the model's folder or repository brings. Only for code that you have
            read.
    """

    name: str
    dtype: str | None = None
    attention: str | None = None
    gradient_checkpointing: bool = False
    adapter: Adapter | None = None
    layers: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"Pretrained: name must be a hub name or a model folder, got {self.name!r}.")
        check_at_least("Pretrained", 1, layers=self.layers)
        if self.dtype is not None:
            check_choice("Pretrained", DTYPES, dtype=self.dtype)
        if self.attention is not None:
            check_choice("Pretrained", _ATTENTION_PACKAGES, attention=self.attention)

    def check_attention(self) -> None:
        """Raise if the attention kernel's package is not installed."""
        package = _ATTENTION_PACKAGES[self.attention] if self.attention else None
        if package is not None and not _installed(package):
            raise UsageError(
                f"model '{self.name}': attention={self.attention} needs the package {package}, which is not "
                "installed; install it or set attention=sdpa."
            )


def as_pretrained(source: str | Pretrained) -> Pretrained:
    """Return the `Pretrained` that a name is short for, with the base model and adapter that an adapter's folder names.

    Raises:
        UsageError: If it is neither a name nor a description, or an adapter's folder that cannot be used.
    """
    if not isinstance(source, str | Pretrained):
        raise UsageError(
            "a model is a name, a Pretrained, a transformers model with its tokenizer's folder, or a Policy; "
            f"got {type(source).__name__}."
        )
    from rl4llm.models.peft_folder import with_base  # which needs `Pretrained`

    return with_base(Pretrained(source) if isinstance(source, str) else source)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
