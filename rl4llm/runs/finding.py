"""`find_last`: the newest good checkpoint of a recipe."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from rl4llm.checks import UsageError
from rl4llm.runs.checkpoint_files import verify


def find_last(root: Path, recipe: str) -> Path | None:
    """Return the newest checkpoint of a recipe whose bytes are good.

    Looks at `root/<recipe>/version_*/checkpoints/*.ckpt`, the latest written first. A damaged one is named in a
    warning and passed over.

    Args:
        root: The folder of all runs.
        recipe: The recipe's name.

    Returns:
        The file, or None if there is none.
    """
    return newest_good(root.glob(f"{recipe}/version_*/checkpoints/*.ckpt"))


def newest_good(paths: Iterable[Path]) -> Path | None:
    """Return the file written last among the checkpoints whose bytes are good; None if there is none."""
    found = [path for path in paths if path.is_file()]
    for path in sorted(found, key=_age, reverse=True):
        try:
            verify(path)
        except UsageError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
        else:
            return path
    return None


def _age(path: Path) -> tuple[int, int, bool]:
    """When it was written; of two written at once, that of the later run, and `last` before `best`."""
    version = path.parent.parent.name.removeprefix("version_")
    return path.stat().st_mtime_ns, int(version) if version.isdigit() else -1, path.name == "last.ckpt"
