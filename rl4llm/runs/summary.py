"""What a run leaves when it ends: the policy as a model folder, the curves, `summary.json` and a printed table."""

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from rl4llm.models import Policy
from rl4llm.progress import progress
from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.curves import draw_curves
from rl4llm.runs.first_batch import duration
from rl4llm.runs.history import History
from rl4llm.runs.memory import peak_memory_mib
from rl4llm.runs.settings import Setting, log_settings

_BATCHES = 10  # rollout batches at the start and at the end of a run that training metrics are averaged over
_FILES = {
    "curves.png": "learning curves",
    "policy": "the trained policy, a model folder",
    "metrics.csv": "every logged metric",
    "summary.json": "these numbers",
}
_PACKAGES = ("rl4llm", "torch", "lightning", "transformers")


class Summary(Callback):
    """Write what is left of a run into its folder and print the table of held-out metrics before and after.

    Args:
        history: The metrics that the run logged.
        recipe: The recipe's name.
    """

    def __init__(self, history: History, recipe: str) -> None:
        self.history, self.recipe = history, recipe
        self.seed: int | None = None
        self.settings: dict[str, Setting] = {}
        self.earlier, self.started, self.ended = 0.0, 0.0, 0.0

    @property
    def minutes(self) -> float:
        """Return the minutes of training, including those before a resume."""
        until = self.ended or time.perf_counter()
        return self.earlier + ((until - self.started) / 60 if self.started else 0.0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.ended = time.perf_counter(), 0.0

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop the clock and write the policy."""
        self.ended = time.perf_counter()
        folder, policy = _folder(trainer), getattr(module, "policy", None)
        if isinstance(policy, Policy) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with progress.phase("saving the policy", quick=True):
                policy.save(folder / "policy", write=_writes(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Return the minutes of training so far."""
        return {"minutes": self.minutes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from the run that saved the checkpoint."""
        self.earlier = float(state_dict["minutes"])

    def finish(self, trainer: Trainer) -> None:
        """Draw the curves, write `summary.json` and print the table. Called by all ranks."""
        folder = _folder(trainer)
        if not _writes(trainer):
            return
        with progress.phase("drawing the curves", quick=True):
            draw_curves(self.history, folder / "curves.png", title=self.recipe)
        self.write(folder, trainer.global_step, status="finished")
        _, after = self._held_out()
        final = {f"val/{name}": x for name, x in after[1].items()}
        final |= {f"train/{name}": x for name, x in self._training()[2].items()}
        log_settings(trainer.loggers, self.settings, final, trainer.global_step)
        print(self._table(trainer.global_step, folder))

    def write(self, folder: Path, steps: int, *, status: str, reason: str | None = None) -> None:
        """Write `summary.json`, atomically.

        Args:
            folder: The run folder.
            steps: Rollout batches trained.
            status: `finished`, `stopped` (by a signal) or `failed`.
            reason: Why, unless finished.
        """
        before, after = self._held_out()
        content = {
            "recipe": self.recipe,
            "status": status,
            "reason": reason,
            "seed": self.seed,
            "steps": steps,
            "minutes": round(self.minutes, 3),
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "before": {"step": before[0], **before[1]},
            "after": {"step": after[0], **after[1]},
            "training": dict(zip(("batches", "first", "last"), self._training(), strict=True)),
            "folder": str(folder),
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        write_atomically(folder / "summary.json", (json.dumps(content, indent=2) + "\n").encode())

    def _held_out(self) -> tuple[tuple[int, dict[str, float]], tuple[int, dict[str, float]]]:
        """Return step and metrics of the first and the latest evaluation of the run; empty without any."""
        found = [(step, _bare(metrics, "val/")) for step, metrics in self.history.validation] or [(0, {})]
        return found[0], found[-1]

    def _training(self) -> tuple[int, dict[str, float], dict[str, float]]:
        """Return a number of rollout batches, and the mean training metrics over that many at the start and the end."""
        logged = [_bare(metrics, "train/") for _, metrics in self.history.training]
        count = min(_BATCHES, max(1, len(logged) // 2))
        return count, _means(logged[:count]), _means(logged[-count:])

    def _table(self, steps: int, folder: Path) -> str:
        lines = [f"\n{self.recipe}: {steps} steps in {duration(60 * self.minutes)} of training"]
        (_, before), (_, after) = self._held_out()
        batches, first, last = self._training()
        each = "rollout batch" if batches == 1 else f"{batches} batches"
        lines += _columns("held out", ("before", before), ("after", after))
        lines += _columns("training", (f"first {each}", first), (f"last {each}", last)) if not after else []
        lines += ["", f"run folder  {folder}"]
        lines += [f"  {name:14}{what}" for name, what in _FILES.items() if (folder / name).exists()]
        return "\n".join(lines)


def _bare(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics of a prefix without it, except those that are not finite, which say nothing."""
    own = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if isfinite(value)}


def measured_table(metrics: Mapping[str, Any], prefix: str) -> str:
    """Return a table of what an evaluation measured, as a text.

    Args:
        metrics: Metrics by name.
        prefix: Which of them: those named `<prefix>/...`.
    """
    found = {name: float(value) for name, value in metrics.items()}
    return "\n".join(_columns("held out", ("now", _bare(found, f"{prefix}/"))))


def _columns(title: str, *columns: tuple[str, Mapping[str, float]]) -> list[str]:
    """Return a table of metrics, reward first; a dash stands where a column lacks one."""
    names = dict.fromkeys(name for _, column in reversed(columns) for name in column)
    if not names:
        return []
    lines = ["", f"{title:24}" + "".join(f"{head:>{max(10, len(head) + 2)}}" for head, _ in columns)]
    for name in sorted(names, key=lambda name: name != "reward"):
        cells = [f"{column[name]:.3f}" if name in column else "-" for _, column in columns]
        widths = [max(10, len(head) + 2) for head, _ in columns]
        lines.append(f"{name.replace('_', ' '):24}" + "".join(map(str.rjust, cells, widths)))
    return lines


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _writes(trainer: Trainer) -> bool:
    """Whether this process leaves files: the first one does, unless the run is only a rehearsal (fast_dev_run)."""
    rehearsal = any(isinstance(logger, DummyLogger) for logger in trainer.loggers)
    return trainer.is_global_zero and not rehearsal


def _folder(trainer: Trainer) -> Path:
    """The run folder. All ranks must ask for it together: the first one tells the others."""
    return Path(trainer.log_dir or trainer.default_root_dir)
