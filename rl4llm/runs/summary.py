"""What a run leaves when it ends: the policy as a model folder, the curves, `summary.json` and a printed table."""

import json
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from rl4llm.models import Policy
from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.curves import draw_curves
from rl4llm.runs.history import History
from rl4llm.runs.memory import peak_memory_mib

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
        draw_curves(self.history, folder / "curves.png", title=self.recipe)
        self.write(folder, trainer.global_step, status="finished")
        print(self._table(trainer.global_step, folder))

    def write(self, folder: Path, steps: int, *, status: str, reason: str | None = None) -> None:
        """Write `summary.json`, atomically.

        Args:
            folder: The run folder.
            steps: Rollout batches trained.
            status: `finished`, `stopped` (by a signal) or `failed`.
            reason: Why, unless finished.
        """
        validation = self.history.validation
        before, after = (validation[0], validation[-1]) if validation else ((0, {}), (0, {}))
        content = {
            "recipe": self.recipe,
            "status": status,
            "reason": reason,
            "seed": self.seed,
            "steps": steps,
            "minutes": round(self.minutes, 3),
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "before": {"step": before[0], **_bare(before[1])},
            "after": {"step": after[0], **_bare(after[1])},
            "folder": str(folder),
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        write_atomically(folder / "summary.json", (json.dumps(content, indent=2) + "\n").encode())

    def _table(self, steps: int, folder: Path) -> str:
        lines = [f"\n{self.recipe}: {steps} steps in {self.minutes:.1f} minutes of training\n"]
        if self.history.validation:
            before, after = (_bare(self.history.validation[index][1]) for index in (0, -1))
            lines.append(f"{'held out':24}{'before':>10}{'after':>10}")
            for name, value in after.items():
                lines.append(f"{name.replace('_', ' '):24}{before.get(name, float('nan')):>10.3f}{value:>10.3f}")
        what = {"run folder": "", "learning curves": "curves.png", "policy": "policy", "metrics": "metrics.csv"}
        what["summary"] = "summary.json"
        lines += ["", *(f"{label:18}{folder / name}" for label, name in what.items() if (folder / name).exists())]
        return "\n".join(lines)


def _bare(metrics: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("val/"): value for name, value in metrics.items()}


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
