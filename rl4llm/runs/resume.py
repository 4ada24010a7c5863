"""What `--ckpt_path` names: the newest good checkpoint, or a file, and the run folder that it belongs to."""

import re
from dataclasses import dataclass
from pathlib import Path

from rl4llm.checks import UsageError


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
        """The configuration that the run saved."""
        path = None if self.folder is None else self.folder / "config.yaml"
        return path if path is not None and path.is_file() else None


def find_checkpoint(given: str, root: Path, recipe: str) -> Resumed:
    """Find the checkpoint that `--ckpt_path` names.

    Args:
        given: `last`, or a path.
        root: Folder of all runs.
        recipe: The recipe's name.

    Raises:
        UsageError: There is no such checkpoint, or it belongs to another recipe.
    """
    if given == "last":
        found = newest(root, recipe)
        if found is None:
            raise UsageError(
                f"--ckpt_path=last: there is no checkpoint of {recipe} under '{root}'; start without --ckpt_path, or "
                "name the folder with --trainer.default_root_dir."
            )
        return Resumed(found, run_folder(found))
    path = Path(given)
    if not path.exists():
        raise UsageError(
            f"--ckpt_path: '{path}' does not exist; give a file, or last for the newest of {root}/{recipe}."
        )
    folder = run_folder(path)
    if folder is not None and folder.parent.name != recipe:
        raise UsageError(
            f"--ckpt_path: '{path}' is a checkpoint of {folder.parent.name}, but this is {recipe}; "
            f"run recipes/{folder.parent.name}.py, or give a checkpoint of {recipe}."
        )
    return Resumed(path, folder)


def run_folder(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint: `<recipe>/version_<n>/checkpoints/<file>`."""
    folder = checkpoint.absolute().parent.parent
    inside = checkpoint.absolute().parent.name == "checkpoints" and re.fullmatch(r"version_\d+", folder.name)
    return checkpoint.parent.parent if inside else None


def newest(root: Path, recipe: str) -> Path | None:
    """The newest checkpoint of a recipe that is whole; None if there is none."""
    try:
        from rl4llm.runs.checkpoints import find_last
    except ImportError:
        found = [path for path in (root / recipe).glob("version_*/checkpoints/*.ckpt") if path.stat().st_size]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    last: Path | None = find_last(root, recipe)
    return last


def what_differs(error: BaseException, checkpoint: str | None) -> str:
    """One line about a checkpoint that does not fit the modules; empty if the error is about something else.

    Args:
        error: What loading raised.
        checkpoint: The file.
    """
    text = str(error)
    if checkpoint is None:
        return ""
    if "loading state_dict" in text:
        missing, extra = _keys(text, "Missing key"), _keys(text, "Unexpected key")
        sizes = re.findall(r"size mismatch for ([\w.]+)", text)
        lacks = [f"{verb} {_some(names)}" for verb, names in (("lacks", missing), ("has", extra)) if names]
        if sizes:
            lacks.append(f"has other sizes in {_some(sizes)}")
        differs = ", ".join(lacks) or "differs from the modules of this run"
    elif "parameter group" in text and "optimizer" in text:
        differs = "has optimizer states of other parameters"
    else:
        return ""
    return (
        f"--ckpt_path: '{checkpoint}' {differs}; it was saved by another recipe, model, or number of critics. Use the "
        "configuration saved beside it."
    )


def _keys(text: str, kind: str) -> list[str]:
    found = re.search(rf"{kind}\(s\) in state_dict: (.*?)\.\s*(?:\n|$)", text, re.DOTALL)
    return re.findall(r'"([^"]+)"', found[1]) if found else []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
