"""`Arm`: a recipe with flags under a name, and the arms that lists, mappings and grids of flags stand for."""

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl4llm.checks import UsageError


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    Args:
        name: The name of the arm in tables and figures.
        recipe: Name of a recipe, or the path of a recipe file.
        flags: Flags of the recipe's command `fit`, in the order in which they are given.
    """

    name: str
    recipe: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmChoice:
    """What a study file says of an arm that has a recipe of its own.

    Args:
        recipe: Name of a recipe, or the path of a recipe file; null for the recipe of the study.
        flags: Flags added to the flags of the study.
    """

    recipe: str | None = None
    flags: list[str] = field(default_factory=list)


_STUDY_FILES = (".yaml", ".yml", ".json")

Choice = ArmChoice | list[str] | str | None


def study_arms(
    recipes: Sequence[str],
    arms: Mapping[str, Choice],
    grid: Mapping[str, Sequence[Any]],
    flags: Sequence[str] = (),
) -> list[Arm]:
    """Return the arms of a study: the named ones, then one for every point of the grid.

    Without arms and grid every recipe is an arm of its own. With several recipes, arms and grid points that name no
    recipe exist once per recipe.

    Args:
        recipes: Recipes of the study.
        arms: Flags of each arm by name: a list, one line of flags, null for none, or an `ArmChoice`.
        grid: Values of each option, by its name without dashes; the grid is their product.
        flags: Flags of all arms; those of an arm follow them and so take precedence.

    Raises:
        UsageError: If there is no arm, an arm has no recipe, or two arms have one name.

    Example:
        >>> study_arms(["ppo"], {"as it is": None}, {"model.gamma": [0.9, 1]})[2]
        Arm(name='gamma=1', recipe='ppo', flags=('--model.gamma=1',))
    """
    _check_flags("--flags", flags)
    points = _grid_points(grid)
    both = next((name for name in points if name in arms), None)
    if both is not None:
        raise UsageError(f"report: an arm has the name of the grid point '{both}'; give the arm another name.")
    chosen = {name: _choice(name, choice) for name, choice in arms.items()} | points
    if not chosen and not recipes:
        raise UsageError("report: there is nothing to run; give --recipe, with --arms or --grid, or a study file.")
    if not chosen:
        found = [Arm(recipe, recipe, tuple(flags)) for recipe in recipes]
    else:
        found = [
            Arm(f"{recipe} {name}" if len(recipes) > 1 and choice.recipe is None else name, recipe, (*flags, *own))
            for name, choice in chosen.items()
            for recipe in _recipes_of(name, choice, recipes)
            for own in [choice.flags]
        ]
    _check_names(found)
    return found


def _choice(name: str, choice: Choice) -> ArmChoice:
    if not isinstance(choice, ArmChoice):
        choice = ArmChoice(flags=shlex.split(choice) if isinstance(choice, str) else list(choice or ()))
    _check_flags(f"arm '{name}'", choice.flags)
    return choice


def _check_flags(where: str, flags: Sequence[str]) -> None:
    wrong = next((flag for flag in flags if not flag.startswith("-")), None)
    if wrong is not None:
        raise UsageError(f"report: {where} holds '{wrong}', which is no flag; write --name=value, in one piece.")


def _grid_points(grid: Mapping[str, Sequence[Any]]) -> dict[str, ArmChoice]:
    """Return the points of a grid by names such as `gate.fraction=0.2, critics.size=4`."""
    options = {key.removeprefix("--"): values for key, values in grid.items()}
    for key, values in options.items():
        if not isinstance(values, list | tuple) or not values:
            raise UsageError(f"report: --grid gives {values!r} for {key}; give a list of at least one value.")
    points = itertools.product(*([(key, _as_text(value)) for value in values] for key, values in options.items()))
    settings = [point for point in points if point]
    return {
        ", ".join(f"{key.removeprefix('model.')}={value}" for key, value in point): ArmChoice(
            flags=[f"--{key}={value}" for key, value in point]
        )
        for point in settings
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _recipes_of(name: str, choice: ArmChoice, recipes: Sequence[str]) -> Sequence[str]:
    found = recipes if choice.recipe is None else [choice.recipe]
    if not found:
        raise UsageError(f"report: arm '{name}' has no recipe; give --recipe, or a recipe to the arm.")
    return found


def _check_names(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"report: two arms are named '{twice}'; give every arm a name of its own.")
    empty = next((arm for arm in arms if not arm.name.strip()), None)
    if empty is not None:
        raise UsageError("report: the name of an arm is empty; give every arm a name.")


def flags_of_study(arguments: Sequence[str]) -> list[str]:
    """Return the flags of a report whose first argument may be a study file or a recipe.

    Example:
        >>> flags_of_study(["study.yaml", "--seeds=3"])
        ['--config=study.yaml', '--seeds=3']
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    first, *flags = arguments
    return [f"--config={first}" if first.endswith(_STUDY_FILES) else f"--recipe={first}", *flags]
