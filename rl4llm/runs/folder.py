"""The run folder `<root>/<recipe>/version_<n>`: claimed by one run, and checked before training begins."""

import contextlib
import os
from pathlib import Path

from rl4llm.checks import UsageError


def versions(root: Path, name: str) -> list[int]:
    """Return the version numbers of the run folders that exist, in ascending order."""
    found = (path.name.removeprefix("version_") for path in (root / name).glob("version_*"))
    return sorted(int(number) for number in found if number.isdigit())


def new_folder(root: Path, name: str, *, first: bool, rehearsal: bool) -> Path:
    """Return the folder of a new run.

    Args:
        root: Folder of all runs.
        name: The recipe's name.
        first: Whether this is the first process of the run, which creates the folder.
        rehearsal: Whether the run leaves no files, so that nothing is created.

    Raises:
        UsageError: The folder cannot be created or written to.
    """
    if first and not rehearsal:
        return claim_folder(root, name)
    if not rehearsal:
        check_writable(root)  # started by torchrun or srun: where the first rank fails here, none waits for it
    return root / name / f"version_{max(versions(root, name), default=-1) + 1}"


def claim_folder(root: Path, name: str) -> Path:
    """Create the next free run folder. Two runs that start at the same moment get two folders.

    Args:
        root: Folder of all runs.
        name: The recipe's name.

    Raises:
        UsageError: The folder cannot be created or written to.
    """
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        version = max(versions(root, name), default=-1) + 1
        while True:
            folder = root / name / f"version_{version}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                version += 1
    except OSError as error:
        raise _unusable(root / name, error) from None
    check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Raise unless a file can be written in the folder, which is created if it does not exist.

    Raises:
        UsageError: Names the folder and the reason.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
    except OSError as error:
        raise _unusable(folder, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _unusable(folder: Path, error: OSError) -> UsageError:
    if isinstance(error, FileExistsError | NotADirectoryError):
        taken = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), folder)
        reason = f"'{taken}' is a file"
    else:
        reason = error.strerror or str(error)
    return UsageError(
        f"run folder: '{folder}' cannot be written to ({reason}); choose another with --trainer.default_root_dir."
    )
