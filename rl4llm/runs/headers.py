"""The header of a checkpoint, and the check that it belongs to a run."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rl4llm.checks import UsageError
from rl4llm.wording import counted

FORMAT = 1


def checkpoint_header(module: nn.Module, recipe: str, *, world_size: int = 1) -> dict[str, Any]:
    """Describe a module for the checkpoint that it goes into; plain values only.

    Args:
        module: What is saved. The number of critics is that of the learners of its `critics`.
        recipe: Name of the recipe that made it.
        world_size: Number of processes that saved it; for information, since any number may load it.

    Returns:
        `format`, `recipe`, `critics`, `world_size` and `shapes` (the sizes of every tensor of the state dict).

    Example:
        >>> checkpoint_header(nn.Linear(2, 1), "grpo")["shapes"]
        {'weight': [1, 2], 'bias': [1]}
    """
    critics = getattr(module, "critics", None)
    return {
        "format": FORMAT,
        "recipe": recipe,
        "critics": 0 if critics is None else len(critics.learners),
        "world_size": world_size,
        "shapes": _shapes(module.state_dict()),
    }


def check_matches(checkpoint: Mapping[str, Any], *, recipe: str, expected: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint fits a run: the same recipe, as many critics, the same tensors.

    Args:
        checkpoint: What was read. Without a header of ours, only the tensors are compared.
        recipe: Name of the recipe that is to go on.
        expected: The header of the module that is to be filled ([checkpoint_header][rl4llm.runs.checkpoint_header]).

    Raises:
        UsageError: One line with the file, what differs, and what to do.
    """
    header = checkpoint.get("rl4llm", {})
    file = f"checkpoint '{header.get('file', 'in memory')}'"
    if header.get("format", FORMAT) > FORMAT:
        raise UsageError(f"{file} has format {header['format']}, not {FORMAT}; install a newer rl4llm.")
    theirs, ours = (header.get("recipe", recipe), header.get("critics")), (recipe, expected["critics"])
    if theirs[0] != recipe or theirs[1] not in (None, ours[1]):
        remedy = f"Give --ckpt_path a checkpoint of {recipe}"
        remedy += f", or run recipes/{theirs[0]}.py" if theirs[0] != recipe else ", or change --model.critics"
        raise UsageError(f"{file} belongs to recipe {_described(*theirs)}; this run is {_described(*ours)}. {remedy}.")
    differences = _differences(_shapes(checkpoint["state_dict"]), expected["shapes"])
    if differences:
        raise UsageError(
            f"{file} belongs to another model: {'; '.join(differences)}. "
            "Set --model.policy and --model.critics to what it was saved with, or give --ckpt_path another file."
        )


def _described(recipe: str, critics: int | None) -> str:
    if critics is None:
        return recipe
    return f"{recipe} with {counted(critics, 'critic')}"


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _differences(theirs: Mapping[str, list[int]], ours: Mapping[str, list[int]]) -> list[str]:
    missing = [name for name in ours if name not in theirs]
    unknown = [name for name in theirs if name not in ours]
    other = [name for name in ours if name in theirs and list(theirs[name]) != list(ours[name])]
    found = []
    if other:
        name = other[0]
        sizes = f"{name} is {_sizes(theirs[name])} there and {_sizes(ours[name])} here"
        found.append(f"{counted(len(other), 'tensor')} of another shape ({sizes})")
    if missing:
        found.append(f"{counted(len(missing), 'tensor')} missing there ({_first(missing)})")
    if unknown:
        found.append(f"{counted(len(unknown), 'tensor')} unknown here ({_first(unknown)})")
    return found


def _sizes(shape: list[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}, ..."
