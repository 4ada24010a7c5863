"""`Run`: one arm with one seed, its place on the disk, and how far it has come."""

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rl4llm.runs.finding import find_last
from rl4llm.runs.folder import versions
from rl4llm.studies.resolve import Resolved
from rl4llm.studies.sources import source_digest

_PACKAGES = ("torch", "lightning", "transformers")  # other versions of them round otherwise


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    A run is found again by what it computes, so an arm may be renamed and seeds or arms may be added to a study.

    Args:
        resolved: The arm.
        seed: The seed.
        threads: Threads of the process, which may change the last bit of its numbers.
        out: Folder of the study.
    """

    resolved: Resolved
    seed: int
    threads: int
    out: Path

    @property
    def label(self) -> str:
        """Arm and seed for a message."""
        return f"{self.resolved.arm.name}, seed {self.seed}"

    @property
    def place(self) -> Path:
        """The folder of the run, in which it makes a run folder as any run does."""
        made_by = [*(f"{name} {version(name)}" for name in _PACKAGES), f"{self.threads} threads"]
        text = "\n".join([self.resolved.folder_name, self.resolved.config, *made_by])
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.out / "runs" / f"{self.resolved.folder_name}-{digest}" / f"seed_{self.seed}"

    @property
    def folder(self) -> Path | None:
        """The newest run folder; None before the first attempt."""
        found = versions(self.place, self.resolved.folder_name)
        return self.place / self.resolved.folder_name / f"version_{found[-1]}" if found else None

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` of the newest run folder says; empty if there is none."""
        path = None if self.folder is None else self.folder / "summary.json"
        if path is None or not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            return {}

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.summary.get("status") == "finished"

    @property
    def resumable(self) -> bool:
        """Whether an attempt has left a good checkpoint from which the run can go on."""
        return find_last(self.place, self.resolved.folder_name) is not None

    @property
    def failure(self) -> str:
        """The line in which the last attempt said why it failed; empty if it has not failed."""
        path = self.place / "failure.txt"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    @property
    def outdated(self) -> bool:
        """Whether the run was made with other source code than there is now."""
        path = self.place / "source.txt"
        return path.is_file() and path.read_text(encoding="utf-8").strip() != source_digest(self.resolved)

    def note_source(self) -> None:
        """Note the source code with which the run begins."""
        (self.place / "source.txt").write_text(source_digest(self.resolved) + "\n", encoding="utf-8")

    @contextmanager
    def claimed(self) -> Iterator[int | None]:
        """Hold the run's lock, so that two reports never make one run at the same time.

        Yields:
            A descriptor that the run's process inherits, so that the lock outlives a report that is killed; None if
            another process holds the lock.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.place / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)


def command_of(run: Run) -> str:
    """Return the command that makes the run, as one types it in the present folder."""
    words = [*command_start(run.resolved), "fit", *run.resolved.arm.flags, f"--seed_everything={run.seed}"]
    return f"OMP_NUM_THREADS={run.threads} {shlex.join(words)}"


def command_start(resolved: Resolved) -> list[str]:
    """Return what starts the recipe in the present folder: `python recipes/asyppo.py`, or `rl4llm asyppo`."""
    script, given = resolved.script, resolved.arm.recipe
    if given.endswith(".py"):
        return ["python", given]
    beside = Path("recipes") / script.name
    return ["python", str(beside)] if beside.is_file() and beside.samefile(script) else ["rl4llm", script.stem]
