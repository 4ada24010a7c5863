"""Folders that peft writes: an adapter beside the name of the model that it belongs to."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rl4llm.checks import UsageError
from rl4llm.models.lora import inject, require_peft
from rl4llm.models.names import resolve_model
from rl4llm.models.pretrained import Adapter, Pretrained
from rl4llm.models.weight_files import announced_size

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_READ = {"r", "lora_alpha", "fan_in_fan_out", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}
_WITHOUT_EFFECT = {  # where layers and numbers come from the weights, and dropout is off
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    *("peft_version", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
_KEEPS_THE_MODEL = (True, False, "gaussian", "orthogonal")  # initializations that leave the model's own weights alone


def is_adapter_folder(name: str) -> bool:
    """Return whether a name is a local folder that holds an adapter."""
    return (Path(name).expanduser() / CONFIG).is_file()


def with_base(model: Pretrained) -> Pretrained:
    """Return the model that an adapter's folder names, with that adapter; what is no such folder stays as it is.

    Raises:
        UsageError: If the folder cannot be read as an adapter, or the model that it names does not exist.
    """
    if not is_adapter_folder(model.name):
        return model
    folder = Path(model.name).expanduser()
    for given, what in ((model.adapter, "another adapter"), (model.layers, "the first layers alone")):
        if given is not None:
            raise UsageError(
                f"adapter folder '{model.name}' cannot be combined with {what}; merge it first, by saving the policy "
                "that is loaded from it."
            )
    if (folder / "config.json").is_file():
        raise UsageError(
            f"folder '{model.name}' holds both a model (config.json) and an adapter ({CONFIG}); move one of them into "
            "a folder of its own."
        )
    base = _read_config(folder).get("base_model_name_or_path")
    remedy = f"Name the model yourself: Pretrained(name, adapter=SavedAdapter('{model.name}'))."
    if not isinstance(base, str) or not base:
        raise UsageError(f"adapter folder '{model.name}' names no model in base_model_name_or_path. {remedy}")
    try:
        resolve_model(base)
    except UsageError as error:
        raise UsageError(f"adapter folder '{model.name}' belongs to '{base}': {error} {remedy}") from error
    return replace(model, name=base, adapter=SavedAdapter(model.name))


@dataclass(frozen=True)
class SavedAdapter(Adapter):
    """A LoRA adapter that peft or `Policy.save` has written; it is trained further.

    Args:
        folder: The folder with `adapter_config.json` and `adapter_model.safetensors`.
    """

    folder: str

    def check(self, model: PreTrainedModel) -> None:
        """Raise if the files cannot be read or belong to another model; only headers are read."""
        self._inject(model)

    def wrap(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put the adapter with its weights into the model's layers and freeze everything else."""
        shapes = self._inject(model)
        from peft import set_peft_model_state_dict

        with safe_open(self._weights(), framework="pt") as file:
            weights = {name: file.get_tensor(key) for name, key in self._keys(model).items() if name in shapes}
        broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise UsageError(
                f"adapter folder '{self.folder}': {broken[0]} holds NaN or infinite numbers; take an adapter from "
                "before it broke."
            )
        set_peft_model_state_dict(model, weights)
        return model

    def _inject(self, model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
        """Put the adapter without its weights into the model; return the shapes of its tensors, which are compared."""
        require_peft("SavedAdapter")
        from peft import LoraConfig, get_peft_model_state_dict

        keys = self._keys(model)
        with safe_open(self._weights(), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in keys.items()}
        layers = sorted({name.rpartition(".lora_")[0] for name in shapes})
        try:
            inject(model, LoraConfig(target_modules=layers, **_settings(Path(self.folder).expanduser())), "default")
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        except (ValueError, TypeError) as error:
            raise UsageError(f"adapter folder '{self.folder}': {str(error).splitlines()[0]}") from error
        needed = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        wrong = sorted(name for name in {**needed, **shapes} if needed.get(name) != shapes.get(name))
        if wrong:
            raise UsageError(
                f"adapter folder '{self.folder}' does not fit {type(model).__name__}: {wrong[0]} is "
                f"{_size(shapes.get(wrong[0]))} in the file and {_size(needed.get(wrong[0]))} in the model; "
                "name the model that the adapter was trained on."
            )
        return shapes

    def _keys(self, model: PreTrainedModel) -> dict[str, str]:
        """Names in the model of the tensors in the file; a model without head has none of the head's."""
        with safe_open(self._weights(), framework="pt") as file:
            keys = {key.removeprefix(_PREFIX): key for key in file.keys()}  # noqa: SIM118
        if model.base_model is not model:
            return keys
        prefix = f"{model.base_model_prefix}."
        return {name.removeprefix(prefix): key for name, key in keys.items() if name.startswith(prefix)}

    def _weights(self) -> Path:
        folder = Path(self.folder).expanduser()
        path = folder / WEIGHTS
        if not path.is_file():
            why = "holds pickled code, which is never run" if (folder / PICKLED).is_file() else "does not exist"
            which = folder / PICKLED if (folder / PICKLED).is_file() else path
            raise UsageError(f"adapter folder '{self.folder}': {which} {why}; save the adapter as safetensors.")
        if path.stat().st_size != announced_size(path):
            raise UsageError(f"adapter folder '{self.folder}': {path} is damaged or cut off; copy it again.")
        return path


def save_adapter(model: PreTrainedModel, state: dict[str, Tensor], name: str, folder: Path) -> None:
    """Write an adapter as peft writes it.

    Args:
        model: The model with the adapter in its layers.
        state: The model's whole state.
        name: Of the adapter.
        folder: Where the two files go.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)
    config: Any = copy.copy(model.peft_config[name])
    config.base_model_name_or_path, config.task_type, config.inference_mode = model.name_or_path, "CAUSAL_LM", True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file({_PREFIX + key: tensor.contiguous() for key, tensor in found.items()}, folder / WEIGHTS)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"adapter folder '{folder}': {CONFIG} cannot be read; save the adapter again.") from error
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        kind = found.get("peft_type") if isinstance(found, dict) else None
        raise UsageError(
            f"adapter folder '{folder}' is of type {kind}, and only LORA is read; merge it into its model."
        )
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the adapter that shape it; one that would change anything else is refused."""
    found = _read_config(folder)
    starts = found.pop("init_lora_weights", True)
    if starts not in _KEEPS_THE_MODEL or found.pop("bias", "none") != "none":
        raise UsageError(
            f"adapter folder '{folder}' changes the model's own weights (init_lora_weights={starts!r} or bias); "
            "merge it into its model."
        )
    unknown = sorted(name for name, value in found.items() if value and name not in _READ | _WITHOUT_EFFECT)
    if unknown:
        raise UsageError(
            f"adapter folder '{folder}' sets {unknown[0]}={found[unknown[0]]!r}, which is not supported; merge it into "
            "its model."
        )
    return {name: found[name] for name in _READ if name in found}


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))
