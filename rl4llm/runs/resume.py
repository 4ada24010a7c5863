"""Resolves `--ckpt_path` to the newest good checkpoint or a file, and to its run folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from rl4llm.checks import UsageError
from rl4llm.runs.checkpoint_files import check_place
from rl4llm.runs.finding import find_last, newest_good


@dataclass(frozen=True)
class Resumed:
    """A checkpoint and the run that it belongs to.

    Args:
        checkpoint: The file.
        folder: Its run folder; None for a file that lies elsewhere.
    """

    checkpoint: Path
    folder: Path | None

    @property
    def config(self) -> Path | None:
        """Return the configuration file that the run saved, if there is one."""
        path = None if self.folder is None else self.folder / "config.yaml"
        return path if path is not None and path.is_file() else None


def find_checkpoint(given: str, root: Path, recipe: str) -> Resumed:
    """Find the checkpoint that `--ckpt_path` names.

    Args:
        given: `last`, the path of a checkpoint, or a run folder, which stands for its newest good checkpoint.
        root: Folder of all runs.
        recipe: The recipe's name.

    Raises:
        UsageError: There is no such checkpoint, it is empty or a folder, or it belongs to another recipe.
    """
    if given == "last":
        found = find_last(root, recipe)
        if found is None:
            raise UsageError(
                f"--ckpt_path=last: there is no good checkpoint of {recipe} under '{root}'; start without --ckpt_path, "
                "or name the folder with --trainer.default_root_dir."
            )
        return Resumed(found, run_folder(found))
    path = Path(given)
    if not given:
        raise UsageError(f"--ckpt_path is empty; give a file, a run folder, or last for the newest of {root}/{recipe}.")
    if not path.exists():
        raise UsageError(
            f"--ckpt_path: '{path}' does not exist; give a file, a run folder, or last for the newest of "
            f"{root}/{recipe}."
        )
    if is_run_folder(path):
        path = newest_in(path)
    check_place(path)
    folder = run_folder(path)
    if folder is not None and folder.parent.name != recipe:
        raise UsageError(
            f"--ckpt_path: '{path}' is a checkpoint of {folder.parent.name}, but this is {recipe}; "
            f"run recipes/{folder.parent.name}.py, or give a checkpoint of {recipe}."
        )
    return Resumed(path, folder)


def run_folder(checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint `<recipe>/version_<n>/checkpoints/<file>`; None for any other place."""
    inside = checkpoint.absolute().parent.name == "checkpoints" and is_run_folder(checkpoint.absolute().parent.parent)
    return checkpoint.parent.parent if inside else None


def is_run_folder(path: Path) -> bool:
    """Return whether a path is a folder with the name of a run, `version_<n>`."""
    return path.is_dir() and re.fullmatch(r"version_\d+", path.absolute().name) is not None


def newest_in(folder: Path) -> Path:
    """Return the newest good checkpoint of a run folder.

    Raises:
        UsageError: It holds none.
    """
    found = newest_good(folder.glob("checkpoints/*.ckpt"))
    if found is None:
        raise UsageError(f"run folder '{folder}' holds no good checkpoint; give another one, or a checkpoint file.")
    return found
