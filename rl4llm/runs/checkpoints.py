"""`Checkpoints`: saves a run between two rollout batches, so that it goes on with exactly the next one."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from rl4llm.checks import LARGEST_WEIGHT, UsageError, check_at_least
from rl4llm.runs.checkpoint_files import CheckpointFiles
from rl4llm.runs.headers import check_matches, checkpoint_header
from rl4llm.runs.optimizers import Groups, check_same_kind, hyperparameters, renew_hyperparameters


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt` and `best.ckpt` of a run in its folder `checkpoints/`.

    `last.ckpt` is written every so many rollout batches (`trainer.global_step` counts them) and at the end of training.
    Where an evaluation follows a batch, it is written after the evaluation, so that a resumed run neither repeats nor
    loses it. `best.ckpt` is written after an evaluation that beats all before it.

    With it, files are written and verified by [CheckpointFiles][rl4llm.runs.CheckpointFiles], unless the Trainer was
    given a checkpoint plugin. What is loaded is compared with the run first.

    Args:
        recipe: Name of the recipe, written into every checkpoint and compared when one is loaded.
        every_n_batches: Rollout batches between two writes of `last.ckpt`.
        monitor: What `best.ckpt` is best at: an evaluation's metric, the larger the better; None keeps no best.
        folder: Where the files go; the run's own folder when None.
    """

    def __init__(
        self,
        recipe: str = "",
        *,
        every_n_batches: int = 25,
        monitor: str | None = "val/sampled_accuracy",
        folder: str | Path | None = None,
    ) -> None:
        check_at_least("Checkpoints", 1, every_n_batches=every_n_batches)
        self.recipe, self.every_n_batches, self.monitor, self.folder = recipe, every_n_batches, monitor, folder
        self.best_score: float | None = None
        self.dirpath: Path | None = None
        self._requested, self._due, self._saved_step = False, False, 0
        self._states: list[dict[str, Any]] = []
        self._asked: Groups | None = None
        self._epoch: int | None = None

    @property
    def last_model_path(self) -> str:
        """Return the path of the latest checkpoint."""
        return "" if self.dirpath is None else str(self.dirpath / "last.ckpt")

    @property
    def best_model_path(self) -> str:
        """Return the path of the best checkpoint; empty if there is none yet."""
        path = None if self.dirpath is None else self.dirpath / "best.ckpt"
        return str(path) if path is not None and path.exists() else ""

    def request_save(self) -> None:
        """Ask for a checkpoint at the end of the present batch, for example because the process is asked to end."""
        self._requested = True

    # --- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder and install the plugin that writes and verifies checkpoints."""
        place = Path(self.folder) if self.folder is not None else _run_folder(trainer) / "checkpoints"
        self.dirpath = Path(trainer.strategy.broadcast(str(place)))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        if isinstance(trainer.strategy.checkpoint_io, CheckpointFiles) and self.recipe:
            trainer.strategy.checkpoint_io.check = partial(_check, pl_module, self.recipe)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, unless an evaluation follows: then after that."""
        self._epoch = trainer.current_epoch
        step, asked = trainer.global_step, self._requested or trainer.received_sigterm
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        self._due = asked or (step != self._saved_step and step % self.every_n_batches == 0)
        if self._due and not _evaluation_follows(trainer):
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was put off, and the best; the check before training and evaluations of their own do not count."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        names = ["best.ckpt"] if self._improved(trainer) else []
        if self._due or self._requested or self._saved_step == trainer.global_step:
            names.append("last.ckpt")  # last, so that it is the newest
        self._save(trainer, *names)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end unless that was done."""
        if self._epoch is not None and self._saved_step != trainer.global_step:
            self._save(trainer, "last.ckpt")

    def _improved(self, trainer: Trainer) -> bool:
        score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if score is None or not math.isfinite(score):
            return False
        better = self.best_score is None or float(score) > self.best_score
        better = trainer.strategy.broadcast(better)
        if better:
            self.best_score = float(score)
        return better

    # --- what -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best score so far."""
        self.best_score = state_dict["best_score"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the step of the loaded checkpoint, which need not be saved again."""
        self._saved_step = checkpoint.get("global_step", 0)
        self._states = [{"param_groups": state["param_groups"]} for state in checkpoint.get("optimizer_states", ())]
        self._note_flags(trainer)  # sharded models are loaded after their optimizers were made, others before

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the optimizers' hyperparameters from the flags before a checkpoint overwrites them."""
        self._note_flags(trainer)

    def _note_flags(self, trainer: Trainer) -> None:
        if self._states and trainer.optimizers:
            check_same_kind(self._states, trainer.optimizers)
            self._asked = hyperparameters(trainer.optimizers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the hyperparameters given by flags to the optimizers of a resumed run."""
        if self._asked is not None:
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            renew_hyperparameters(trainer.optimizers, schedules, self._asked)
        self._states, self._asked = [], None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the header, and let the Trainer's counters say: this batch is done, the next one comes."""
        checkpoint["rl4llm"] = checkpoint_header(pl_module, self.recipe, world_size=trainer.world_size)
        if self._epoch is not None:
            _count_as_done(checkpoint["loops"]["fit_loop"], self._epoch)

    def _save(self, trainer: Trainer, *names: str) -> None:
        """Write on the first rank; what goes wrong there ends all ranks with the same message."""
        if not names or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self.dirpath is not None
        checkpoint, problem = trainer._checkpoint_connector.dump_checkpoint(weights_only=False), None
        try:
            if trainer.is_global_zero:
                self._check_finite(trainer, checkpoint["state_dict"])
            for name in names:
                trainer.strategy.save_checkpoint(checkpoint, self.dirpath / name)
        except UsageError as error:
            problem = str(error)
        if problem := trainer.strategy.broadcast(problem):
            raise UsageError(problem)
        if "last.ckpt" in names:
            self._saved_step, self._due, self._requested = trainer.global_step, False, False

    def _check_finite(self, trainer: Trainer, state: dict[str, Any]) -> None:
        for name, _ in trainer.lightning_module.named_parameters():
            if name in state and not _useful(state[name]):
                raise UsageError(
                    f"{name} is not finite, or beyond {LARGEST_WEIGHT:g}, after rollout batch {trainer.global_step}, "
                    f"so '{self.last_model_path}' was not overwritten; lower the learning rate of that model and go on "
                    "with --ckpt_path=last."
                )


def _useful(weight: torch.Tensor) -> bool:
    """Return whether all numbers of a weight are finite and within the largest allowed magnitude."""
    return not weight.numel() or bool(weight.abs().max() <= LARGEST_WEIGHT)


def _run_folder(trainer: Trainer) -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir)


def _check(module: LightningModule, recipe: str, checkpoint: dict[str, Any]) -> None:
    check_matches(checkpoint, recipe=recipe, expected=checkpoint_header(module, recipe))


def _evaluation_follows(trainer: Trainer) -> bool:
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _count_as_done(fit_loop: dict[str, Any], epoch: int) -> None:
    """Write the Trainer's counters as they stand at the end of a batch, wherever behind that batch it is saved.

    Lightning tells by the counters where a checkpoint was written. "Processed but not completed" is the one place from
    which it goes on with the next batch, in the middle and at the end of an epoch alike, without evaluating again.
    After an evaluation, at the end of training, and after an epoch's end that was itself resumed, the counters say
    something else, and a resumed run would log at other steps, lose hooks, or begin an epoch anew.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    if batches["current"]["processed"] != batches["current"]["ready"]:
        return  # within a batch
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"] - 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = batches["total"]["processed"] - 1
    for count in fit_loop["epoch_progress"].values():
        count.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
