"""Where records are read from: files as they stand on disk, found by a path or a pattern."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from rl4llm.checks import UsageError


class Source(NamedTuple):
    """A file or data set as it stands: the key under which its examples are kept.

    Args:
        name: Class of the task, with which messages begin.
        path: Absolute path, or the name on the hub.
        shown: How messages call it.
        modified_ns: Time of the last change.
        size: Bytes.
        part: Split of a data set; empty for a file.
        subset: Configuration of a data set; empty for a file.
    """

    name: str
    path: str
    shown: str
    modified_ns: int = 0
    size: int = 0
    part: str = ""
    subset: str = ""


def check_files(name: str, field: str, place: str, suffix: str) -> None:
    """Raise unless a path or pattern leads to files.

    Args:
        name: Class of the task, with which messages begin.
        field: The field that holds the place, such as `train`.
        place: Path of a file, or a pattern with `*` such as `data/train-*.parquet`.
        suffix: How the names of such files end, for the message.

    Raises:
        UsageError: If nothing is there, or if it is a folder.
    """
    if Path(place).is_dir():
        folder = place.rstrip("/")
        raise UsageError(
            f"{name}: {field} file '{place}' is a folder; pass the path of a {suffix} file, or a pattern such as "
            f"{folder}/*{suffix}."
        )
    if not _paths(place):
        raise UsageError(f"{name}: {field} file '{place}' does not exist; pass the path of a {suffix} file.")


def file_sources(name: str, place: str) -> tuple[Source, ...]:
    """Return the keys of the files behind a path or pattern, which change when the files do.

    Raises:
        UsageError: If one of them cannot be read.
    """
    return tuple(_file_source(name, path) for path in _paths(place) or [place])


def _paths(place: str) -> list[str]:
    """A path that exists is taken literally; anything else is read as a pattern."""
    return [place] if Path(place).is_file() else sorted(path for path in glob.glob(place) if os.path.isfile(path))


def _file_source(name: str, path: str) -> Source:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise unreadable(name, path, error) from None
    return Source(name, str(Path(path).resolve()), path, found.st_mtime_ns, found.st_size)


def unreadable(name: str, shown: str, error: OSError) -> UsageError:
    """Return the error of a file that the system cannot open."""
    return UsageError(f"{name}: {shown} cannot be read ({error.strerror}); pass a readable file.")
