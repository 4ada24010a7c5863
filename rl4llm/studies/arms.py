"""`Arm`: a recipe with flags under a name, and the arms that lists, mappings and grids of flags stand for."""

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.command.recipes import recipes_folder

Choice = tuple[str | None, list[str]]  # the recipe of an arm, and its flags
_STUDY_FILES = (".yaml", ".yml", ".json")


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


def study_arms(
    recipes: Sequence[str],
    arms: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    flags: Sequence[str] = (),
) -> list[Arm]:
    """Return the arms of a study: the named ones, then one for every point of the grid.

    Without arms and grid every recipe is an arm of its own. With several recipes, arms and grid points that name no
    recipe exist once per recipe.

    Args:
        recipes: Recipes of the study.
        arms: Flags of each arm by name: a list, one line of flags, or None. An arm with a recipe of its own is a
            mapping with the keys `recipe` and `flags`.
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
    chosen = {str(name): _choice(str(name), given) for name, given in arms.items()} | points
    if not chosen and not recipes:
        raise UsageError("report: there is nothing to run; give --recipe, with --arms or --grid, or a study file.")
    found = [Arm(recipe, recipe, tuple(flags)) for recipe in recipes if not chosen]
    for name, (recipe, own) in chosen.items():
        found += [
            Arm(f"{one} {name}" if len(recipes) > 1 and recipe is None else name, one, (*flags, *own))
            for one in _recipes_of(name, recipe, recipes)
        ]
    _check_names(found)
    return found


def _choice(name: str, given: Any) -> Choice:
    """Return the recipe and the flags of an arm."""
    settings = given if isinstance(given, Mapping) else {"flags": given}
    unknown = next((key for key in settings if key not in ("recipe", "flags")), None)
    if unknown is not None:
        raise UsageError(f"report: arm '{name}' has '{unknown}'; an arm has recipe and flags.")
    recipe, flags = settings.get("recipe"), settings.get("flags") or []
    if isinstance(flags, str):
        flags = _split(name, flags)
    if not isinstance(flags, list) or not isinstance(recipe, str | None):
        raise UsageError(
            f"report: arm '{name}' is {given!r}; give a list of flags, or a mapping with recipe and flags."
        )
    _check_flags(f"arm '{name}'", flags)
    return recipe, flags


def _split(name: str, line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"report: arm '{name}': its line of flags cannot be read ({error}); give a list.") from None


def _check_flags(where: str, flags: Sequence[Any]) -> None:
    wrong = next((flag for flag in flags if not (isinstance(flag, str) and flag.startswith("-"))), None)
    if wrong is not None:
        raise UsageError(f"report: {where} holds '{wrong}', which is no flag; write --name=value, in one piece.")


def _grid_points(grid: Mapping[str, Sequence[Any]]) -> dict[str, Choice]:
    """Return the points of a grid by names such as `gate.fraction=0.2, critics.size=4`."""
    options = {key.removeprefix("--"): values for key, values in grid.items()}
    for key, values in options.items():
        if not values:
            raise UsageError(f"report: --grid gives {values!r} for {key}; give a list of at least one value.")
    points = itertools.product(*([(key, _as_text(value)) for value in values] for key, values in options.items()))
    return {
        ", ".join(f"{key.removeprefix('model.')}={value}" for key, value in point): (
            None,
            [f"--{key}={value}" for key, value in point],
        )
        for point in points
        if point
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _recipes_of(name: str, recipe: str | None, recipes: Sequence[str]) -> Sequence[str]:
    if recipe is None and not recipes:
        raise UsageError(f"report: arm '{name}' has no recipe; give --recipe, or a recipe to the arm.")
    return recipes if recipe is None else [recipe]


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

    A study file that is not found is looked for among those that come with the recipes.

    Example:
        >>> flags_of_study(["study.yaml", "--seeds=3"])
        ['--config=study.yaml', '--seeds=3']
    """
    if not arguments or arguments[0].startswith("-"):
        return ["--slurm=true" if flag == "--slurm" else flag for flag in arguments]
    first, *flags = arguments
    if not first.endswith(_STUDY_FILES):
        return [f"--recipe={first}", *flags_of_study(flags)]
    shipped = recipes_folder() / "configs" / first
    file = shipped if shipped.is_file() and not Path(first).is_file() else first
    return [f"--config={file}", *flags_of_study(flags)]
