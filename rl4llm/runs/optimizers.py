"""Hyperparameters of a resumed run's optimizers, which come from the flags given now."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from rl4llm.checks import UsageError

Groups = list[list[dict[str, Any]]]
_RATES = ("lr", "initial_lr")


def hyperparameters(optimizers: Iterable[Optimizer]) -> Groups:
    """Copy the hyperparameters of every group of every optimizer, as the flags set them."""
    return [[_without_parameters(group) for group in optimizer.param_groups] for optimizer in optimizers]


def check_same_kind(states: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer]) -> None:
    """Raise unless the saved states are those of optimizers of these classes.

    Args:
        states: `optimizer_states` of a checkpoint.
        optimizers: Those of the run that is to go on.

    Raises:
        UsageError: An optimizer has other hyperparameters than the one whose state was saved.
    """
    for state, optimizer in zip(states, optimizers, strict=False):
        saved, present = (
            [set(_without_parameters(group)) | {"initial_lr"} for group in groups]
            for groups in (state["param_groups"], optimizer.param_groups)
        )
        if saved != present:
            raise UsageError(
                f"the checkpoint holds the state of an optimizer other than {type(optimizer).__name__}; a run goes on "
                "with the classes that it began with: leave out --model.optimizer and --model.critic_optimizer."
            )


def renew_hyperparameters(optimizers: Sequence[Optimizer], schedules: Iterable[Any], asked: Groups) -> None:
    """Set learning rates, weight decay and the like to what the flags say now.

    A checkpoint brings the optimizers' hyperparameters back together with their moments, and would silently undo a flag
    such as `--model.optimizer.lr`. What is unchanged stays untouched, to the last bit.

    Args:
        optimizers: As the checkpoint left them.
        schedules: Their learning rate schedules, likewise.
        asked: The hyperparameters before the checkpoint was loaded.
    """
    for optimizer, groups in zip(optimizers, asked, strict=True):
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            _renew(group, wanted)
    for schedule in schedules:
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]


def _renew(group: dict[str, Any], wanted: dict[str, Any]) -> None:
    group.update({name: value for name, value in wanted.items() if name not in _RATES})
    before, now = (given.get("initial_lr", given["lr"]) for given in (group, wanted))
    if before != now:
        group["lr"] = group["lr"] * now / before if before else now
        group["initial_lr"] = now


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}
