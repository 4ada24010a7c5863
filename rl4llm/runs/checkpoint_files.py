"""`CheckpointFiles`: checkpoint files that can be trusted, written in one move and verified when they are read."""

import contextlib
import hashlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from rl4llm.checks import UsageError
from rl4llm.runs.atomic import put_in_place, write_atomically, write_beside

ELSEWHERE = "give --ckpt_path another file, or `last` for the newest good checkpoint of the recipe"
_CHUNK = 1 << 22
_NEEDED = ("state_dict", "pytorch-lightning_version")


class CheckpointFiles(CheckpointIO):
    """Lightning's checkpoint plugin with atomic writes, digests and no unpickling of code.

    Saving writes a temporary file in the same folder, brings it to the disk, reads its structure back, notes its
    digest beside it and moves it into place:

        1  .last.ckpt.<random>.tmp     all bytes, synced
        2  last.ckpt.sha256            the digest of the new file, and below it that of the present one
        3  last.ckpt                   replaced in one move
        4  last.ckpt.sha256            the digest of the new file alone

    A process killed between any two of these leaves a `last.ckpt` whose digest is in the file beside it. A disk that is
    full leaves the earlier pair. `sha256sum -c last.ckpt.sha256` verifies a checkpoint by hand.

    A file without a digest beside it is read if the checksums that every saved tensor carries are right, with a
    warning.

    Args:
        check: Called with every checkpoint that is read, before anything of it is used.
    """

    def __init__(self, check: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.check = check

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint in one move, its digest beside it.

        Raises:
            UsageError: If the disk refuses (full, read-only), or if the content could not be loaded again. Earlier
                checkpoints are intact.
        """
        path = local_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(checkpoint, path)
        except OSError as error:
            raise UsageError(
                f"checkpoint '{path}' could not be written: {error.strerror or error}; earlier checkpoints are intact. "
                "Free space, or let --trainer.default_root_dir name a folder that can be written."
            ) from error

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        temporary, digest = write_beside(path, lambda file: torch.save(checkpoint, cast(BinaryIO, file)))
        try:
            _read_back(temporary, path)
            known = [digest, *known_digests(path)]
            _write_digests(path, known)
            put_in_place(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # both digests are there: the checkpoint is good as it is
            _write_digests(path, known[:1])

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None, *, mmap: bool = False
    ) -> dict[str, Any]:
        """Read a checkpoint whose digest is right. Only tensors and plain values are read, whatever is asked.

        Args:
            path: The file.
            map_location: Not used: everything is read to the CPU.
            weights_only: Not used: it is always true.
            mmap: Map the file instead of reading it, so that processes of one machine share its pages.

        Returns:
            The checkpoint, with the name of its file as `checkpoint["rl4llm"]["file"]`.

        Raises:
            UsageError: If the file is missing, empty, truncated, damaged, no checkpoint, or of another run.
        """
        path = local_path(path)
        verify(path)
        return self.read(path, mmap=mmap)

    def read(self, path: Path, *, mmap: bool = False) -> dict[str, Any]:
        """Read a checkpoint that was verified."""
        checkpoint = _unpickle(path, mmap)
        if not isinstance(checkpoint, dict) or any(name not in checkpoint for name in _NEEDED):
            raise UsageError(f"'{path}' is a torch file, but not the checkpoint of a run; {ELSEWHERE}.")
        checkpoint.setdefault("rl4llm", {})["file"] = str(path)
        if self.check is not None:
            self.check(checkpoint)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its digest."""
        path = local_path(path)
        path.unlink(missing_ok=True)
        digest_file(path).unlink(missing_ok=True)


def local_path(path: Any) -> Path:
    """Return the path of a local file.

    Raises:
        UsageError: If it is an address such as `s3://...`, where no file can be replaced in one move.
    """
    if "://" in str(path):
        raise UsageError(f"checkpoint '{path}': only local folders can hold checkpoints; mount it, or copy it here.")
    return Path(path)


def digest_file(path: Path) -> Path:
    """Return the path of the digest file beside a checkpoint."""
    return path.with_name(path.name + ".sha256")


def known_digests(path: Path) -> list[str]:
    """Return the digests that the digest file accepts, newest first; empty if there is no such file."""
    try:
        lines = digest_file(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line.split()[0] for line in lines if line.strip()]


def verify(path: Path) -> None:
    """Raise unless a checkpoint's bytes are those that were written.

    Args:
        path: The file.

    Raises:
        UsageError: In one line with the file's name, what is wrong with it, and what to do.
    """
    try:
        check_place(path)
        with open(path, "rb") as file:
            known, zipped = known_digests(path), zipfile.is_zipfile(file)
            if not known:
                _check_without_digest(path, file, zipped)
            elif _sha256(file) not in known:
                how = "damaged: its digest is not" if zipped else "truncated or damaged: its digest is not"
                raise UsageError(f"checkpoint '{path}' is {how} the one in '{digest_file(path).name}'; {ELSEWHERE}.")
    except OSError as error:
        raise UsageError(f"checkpoint '{path}' cannot be read: {error.strerror or error}; {ELSEWHERE}.") from error


def check_place(path: Path) -> None:
    """Raise unless there is a file with something in it."""
    if path.is_dir():
        if (path / ".metadata").exists():
            raise UsageError(
                f"checkpoint '{path}' is the folder of a distributed checkpoint, which is not read; "
                "save with --trainer.strategy=fsdp2, which writes one file for any number of devices."
            )
        inside = sorted(str(file) for file in path.glob("*.ckpt"))
        advice = f"name a file in it, such as {inside[0]}" if inside else ELSEWHERE
        raise UsageError(f"checkpoint '{path}' is a folder, not a file; {advice}.")
    if not path.exists():
        raise UsageError(f"checkpoint '{path}' does not exist; {ELSEWHERE}.")
    if path.stat().st_size == 0:
        raise UsageError(f"checkpoint '{path}' is empty; {ELSEWHERE}.")


def _check_without_digest(path: Path, file: BinaryIO, zipped: bool) -> None:
    if not zipped:
        raise UsageError(f"'{path}' is not a checkpoint, or only the beginning of one; {ELSEWHERE}.")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError):
        damaged = "its list of tensors"
    if damaged is not None:
        raise UsageError(f"checkpoint '{path}' is damaged: the checksum of {damaged} is wrong; {ELSEWHERE}.")
    warnings.warn(
        f"checkpoint '{path}' has no digest beside it ('{digest_file(path).name}'); its tensors' own checksums are "
        "right, so it is read.",
        stacklevel=2,
    )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _write_digests(path: Path, digests: list[str]) -> None:
    content = "".join(f"{digest}  {path.name}\n" for digest in digests)
    write_atomically(digest_file(path), content.encode())


def _unpickle(path: Path, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UsageError(f"checkpoint '{path}' cannot be read: {error.strerror or error}; {ELSEWHERE}.") from error
    except Exception as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise UsageError(
                f"checkpoint '{path}' holds more than tensors and plain values, and is not loaded since that could run "
                f"code; {ELSEWHERE}."
            ) from error
        raise UsageError(f"'{path}' is not a torch checkpoint; {ELSEWHERE}.") from error


def _read_back(temporary: Path, path: Path) -> None:
    """A checkpoint that could not be loaded is found when it is written, not when it is needed."""
    try:
        torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        cause = " ".join(str(error).split())
        name = cause.partition("GLOBAL ")[2].split(" ")[0] or cause[:120]
        raise UsageError(
            f"checkpoint '{path}' was not written, because it could not be loaded again: it holds {name}; states of "
            "callbacks, data and models may hold tensors and plain values only."
        ) from error
