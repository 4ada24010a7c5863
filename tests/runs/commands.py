"""A recipe of a few weights, to try the command line without a language model. Run as a script it is a command."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule

from rl4llm.checks import UsageError
from rl4llm.cli import RecipeCLI


class Toy(LightningModule):
    """Learns a constant by manual optimization; can be told to misbehave at a rollout batch."""

    def __init__(self, lr, fault, at, rank, pause):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.lr, self.fault, self.at, self.rank, self.pause = lr, fault, at, rank, pause

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def training_step(self, batch, index):
        if self.global_step == self.at and self.rank in (None, self.global_rank):
            self._misbehave()
        time.sleep(self.pause)
        loss = ((self.weight - batch.float().mean()) ** 2).sum()
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("train/loss", loss)
        if self.global_step % 2:
            self.log("train/odd", loss * 2)

    def validation_step(self, batch, index):
        self.log("val/distance", self.weight.norm(), sync_dist=True)

    def _misbehave(self):
        (Path(self.loggers[0].log_dir) / "fault").touch()
        if self.fault == "usage":
            raise UsageError("Toy: the flask is empty; fill it.")
        if self.fault == "bug":
            raise ZeroDivisionError("a bug")
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "disk":
            raise OSError(28, "No space left on device", "somewhere/metrics.csv")
        if self.fault in ("SIGTERM", "SIGINT", "SIGKILL"):
            os.kill(os.getpid(), getattr(signal, self.fault))


class Numbers(LightningDataModule):
    """Sixty-four threes."""

    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.full((64,), 3), batch_size=self.batch_size)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(4), batch_size=4)


def toy(
    lr: float = 0.01, gate: str = "open", fault: str | None = None, at: int = -1, rank: int | None = None,
    pause: float = 0.0,
) -> Toy:  # fmt: skip
    """Learn a constant.

    Args:
        lr: Learning rate.
        gate: Words of the recipe's own.
        fault: What goes wrong.
        at: The rollout batch at which it does.
        rank: The process in which it does; null in all.
        pause: Seconds per rollout batch.
    """
    return Toy(lr, fault, at, rank, pause)


def flags(root: Path, *more: str) -> list[str]:
    """A short run under a root folder."""
    return [
        "fit", f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
        "--trainer.val_check_interval=4", *more,
    ]  # fmt: skip


def run(root: Path, *more: str) -> RecipeCLI:
    """The command, in this process."""
    return RecipeCLI(toy, Numbers, args=flags(root, *more), max_steps=10)


if __name__ == "__main__":
    RecipeCLI(toy, Numbers, max_steps=10)
