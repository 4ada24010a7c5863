"""What is left when a run ends: the policy as a model folder, the curves, and a table of before and after."""

import time
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from rl4llm.models import Policy
from rl4llm.runs.curves import draw_curves
from rl4llm.runs.history import History

_ROWS = ("sampled_accuracy", "greedy_accuracy", "pass_at", "thinks", "response_length", "truncated_share")


class Summary(Callback):
    """Writes the policy and the curves into the run's folder and prints the table.

    Args:
        history: What the run showed.
        title: The recipe's name.
    """

    def __init__(self, history: History, title: str) -> None:
        self.history, self.title = history, title
        self.started, self.minutes = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop the clock and write the policy."""
        self.minutes = (time.perf_counter() - self.started) / 60
        folder, policy = _folder(trainer), module.policy
        if _writes(trainer) and isinstance(policy, Policy):
            policy.save(folder / "policy")

    def finish(self, trainer: Trainer) -> None:
        """Draw the curves and print the table."""
        folder = _folder(trainer)
        if not _writes(trainer):
            return
        draw_curves(self.history, folder / "curves.png", title=self.title)
        print(self._table(trainer.global_step, folder))

    def _table(self, steps: int, folder: Path) -> str:
        lines = [f"\n{self.title}: {steps} steps in {self.minutes:.1f} minutes of training\n"]
        if self.history.validation:
            (_, before), (_, after) = self.history.validation[0], self.history.validation[-1]
            lines.append(f"{'held out':24}{'before':>10}{'after':>10}")
            names = [name for row in _ROWS for name in after if name.startswith(f"val/{row}")]
            for name in names:
                label = name.removeprefix("val/").replace("_", " ")
                lines.append(f"{label:24}{before.get(name, float('nan')):>10.3f}{after[name]:>10.3f}")
        what = {"run folder": "", "learning curves": "curves.png", "policy": "policy", "numbers": "metrics.csv"}
        lines += ["", *(f"{label:18}{folder / name}" for label, name in what.items() if (folder / name).exists())]
        return "\n".join(lines)


def _writes(trainer: Trainer) -> bool:
    """Whether this process leaves files: the first one does, unless the run is only a rehearsal (fast_dev_run)."""
    rehearsal = any(isinstance(logger, DummyLogger) for logger in trainer.loggers)
    return trainer.is_global_zero and not rehearsal


def _folder(trainer: Trainer) -> Path:
    """The run's folder. All processes must ask for it together: the first one tells the others."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
