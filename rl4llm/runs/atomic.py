"""Files that are either the old one or the new one, whenever the process is killed."""

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".tmp"


class HashingWriter:
    """A file that takes bytes, knows their SHA-256 and keeps the first error for later.

    `torch.save` writes from C++, where an exception in the middle loses its cause; so a failed write is remembered,
    what follows is dropped, and `finish` raises it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash; after a failure do nothing."""
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                self._file.write(data)
                self._hash.update(data)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Nothing: `finish` flushes."""

    def finish(self) -> str:
        """Bring everything to the disk and return the digest.

        Raises:
            OSError: The first that a write met.
        """
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()


def write_beside(path: Path, write: Callable[[HashingWriter], object]) -> tuple[Path, str]:
    """Write a temporary file in the folder of `path`, on the disk when this returns.

    What killed writers of the same file left behind is removed; so is the temporary file itself if writing fails.

    Args:
        path: The file that is meant to be replaced.
        write: Writes the content.

    Returns:
        The temporary file and the SHA-256 of its content.
    """
    for left_over in path.parent.glob(f".{path.name}.*{_SUFFIX}"):
        left_over.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            writer = HashingWriter(file)
            write(writer)
            return temporary, writer.finish()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Let the temporary file become `path` in one move, and bring the move to the disk."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a small file as a whole: a reader, or a run after a kill, sees the old content or the new.

    Args:
        path: The file, whose folder exists.
        content: What it is to hold.
    """
    temporary, _ = write_beside(path, lambda file: file.write(content))
    try:
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse to sync folders
    finally:
        os.close(descriptor)
