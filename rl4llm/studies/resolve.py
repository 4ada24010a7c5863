"""`resolve`: parse the flags of every arm as its recipe does, and build its parts without weights, before any run."""

import contextlib
import io
import runpy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rl4llm import cli, cli_parser
from rl4llm.checks import UsageError
from rl4llm.cli_errors import one_line
from rl4llm.cli_strategy import check_precision, resolve_strategy
from rl4llm.command.recipes import TOOLS, recipe_path
from rl4llm.data.preparing import prepare
from rl4llm.models.outline import without_weights
from rl4llm.progress import progress
from rl4llm.runs.ending import explain
from rl4llm.studies.arms import Arm

OWN = {  # options that the report sets itself, or under which a run leaves nothing to read, and what to do instead
    "seed_everything": "give the seeds with --seeds",
    "trainer.default_root_dir": "give the folder with --out",
    "trainer.logger": "leave it out, because the report reads what the default loggers write",
    "trainer.fast_dev_run": "use --flags='[--trainer.max_steps=1]' for a rehearsal",
    "ckpt_path": "leave it out, because the report resumes unfinished runs itself",
    "dry_run": "run the recipe itself with it",
    "print_config": "run the recipe itself with it",
    "help": "run the recipe itself with it",
}
PLAIN = {"trainer.logger": (None, True), "trainer.fast_dev_run": (False, 0), "ckpt_path": (None,)}


@dataclass(frozen=True)
class Resolved:
    """An arm whose flags its recipe accepts.

    Args:
        arm: The arm.
        script: The file of the recipe.
        folder_name: Name of the recipe's function, after which its run folders are named.
        config: The whole configuration as YAML, with the recipe's default seed.
    """

    arm: Arm
    script: Path
    folder_name: str
    config: str

    @property
    def one_device(self) -> bool:
        """Whether a run needs at most one device."""
        return yaml.safe_load(self.config)["trainer"]["devices"] in ("auto", 1, "1")


def resolve(arms: Sequence[Arm]) -> list[Resolved]:
    """Resolve all arms.

    Raises:
        UsageError: If a recipe refuses the flags of an arm or two arms have the same configuration.
    """
    faults, found = {}, []
    for arm in arms:
        try:
            found.append(_resolved(arm))
        except UsageError as error:
            faults[arm.name] = str(error)
    if faults:
        name, fault = next(iter(faults.items()))
        others = f" Arms that are refused as well: {', '.join(list(faults)[1:])}." if len(faults) > 1 else ""
        raise UsageError(f"report: arm '{name}': {fault}{others}")
    _check_different(found)
    return found


def _resolved(arm: Arm) -> Resolved:
    script = recipe_path(arm.recipe)
    if script.stem in TOOLS:
        raise UsageError(f"{arm.recipe} trains nothing; name a recipe.")
    for flag in arm.flags:
        option = flag.lstrip("-").partition("=")[0]
        if option in OWN:
            raise UsageError(f"--{option} cannot be set in an arm; {OWN[option]}.")
    command = _command(script)
    config = _parsed(command.parser, arm.flags)
    for option, plain in PLAIN.items():
        if config["fit"].get(option) not in plain:
            raise UsageError(f"--{option} cannot be set in an arm; {OWN[option]}.")
    text = command.parser.dump(config, skip_unset=False, skip_validation=True)
    _check_parts(command.parser, config)
    return Resolved(arm, script, command.name, yaml.safe_dump(yaml.safe_load(text)["fit"], sort_keys=False))


def _check_different(found: Sequence[Resolved]) -> None:
    seen: dict[tuple[Path, str], str] = {}
    for one in found:
        key = (one.script.resolve(), one.config)
        if key in seen:
            raise UsageError(
                f"report: the arms '{seen[key]}' and '{one.arm.name}' have the same configuration, because the flags "
                "in which they differ change nothing; change those flags or remove one of the two."
            )
        seen[key] = one.arm.name


# --- the parser behind a recipe ---------------------------------------------------------------------------------------


class _Captured(BaseException):
    """Ends a recipe file when its parser is there."""


@dataclass(frozen=True)
class _Command:
    parser: Any
    name: str


class _OnlyParser(cli.RecipeCLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Captured(_Command(parser, self.recipe_name))


@cache
def _command(script: Path) -> _Command:
    """Return the parser that running a recipe file builds."""
    with _running(script):
        try:
            with _one_line():
                runpy.run_path(str(script), run_name="__main__")
        except _Captured as captured:
            (command,) = captured.args
            vars(cli_parser).pop(f"{command.name}_class", None)  # two recipe files may hold functions of one name
            return command
    raise UsageError(f"'{script}' runs no RecipeCLI; name a recipe file, such as one that `rl4llm copy` makes.")


@contextlib.contextmanager
def _running(script: Path) -> Iterator[None]:
    """Let a recipe file find its own folder and a command that stops at its parser."""
    argv, path, speaker = sys.argv, list(sys.path), progress.name
    cli.RecipeCLI, ours = _OnlyParser, cli.RecipeCLI  # type: ignore[misc]
    sys.argv, sys.path[:0] = [str(script), "fit"], [str(script.parent)]
    try:
        yield
    finally:
        cli.RecipeCLI = ours  # type: ignore[misc]
        sys.argv, sys.path[:] = argv, path
        progress.name = speaker  # the recipe's command took the word


def _parsed(parser: Any, flags: Sequence[str]) -> Any:
    with _one_line():
        return parser.parse_args(["fit", *flags])


def _check_parts(parser: Any, config: Any) -> None:
    """Build everything without weights, so that what does not fit together is found now."""
    given = config["fit"]
    with _one_line(), without_weights():
        if given.get("data.task") is not None:
            prepare(given["data.task"], "fit")
        strategy = given.get("trainer.strategy")
        resolve_strategy(strategy if isinstance(strategy, str) else "auto")
        check_precision(given.get("trainer.precision"))
        parser.instantiate(config)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn whatever a recipe says against its flags into one `UsageError`."""
    said, shown = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            yield
    except SystemExit as left:
        lines = said.getvalue().strip().splitlines()
        reason = lines[-1].removeprefix("error: ") if left.code and lines else "its flags end the run before it begins."
        raise UsageError(reason) from None
    except UsageError:
        raise
    except Exception as error:
        known = explain(error)
        raise UsageError(known[0].removeprefix("error: ") if known else one_line(str(error), [])) from error
