"""`SampleTables`: what the model says, a few responses at a time, on the console, in the loggers and in a file."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from rl4llm.algorithms.evaluation import Evaluator
from rl4llm.algorithms.held_out import sample_of
from rl4llm.algorithms.sample_text import Shown, as_markdown, as_text
from rl4llm.batch import RolloutBatch
from rl4llm.data.task import PromptBatch
from rl4llm.randomness import generator
from rl4llm.rollouts import decode_responses
from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.step_bar import when

_KINDS = ("best", "worst", "random")
_FOLDER = "samples"


class SampleTables(Callback):
    """Shows a few responses of every evaluation, and of training batches if asked.

    The choice is the same in every run with the same responses: the highest score, the lowest, a random one, then the
    next of each. The first rank prints, logs (TensorBoard: text; Weights & Biases: a table) and writes
    `samples/step_<step>_<stage>.jsonl` into the run folder. A run that goes on removes the files of steps after its
    checkpoint and writes them again. No metric and no random number of the run depends on any of this.

    Args:
        evaluator: Its latest samples are shown after an evaluation; its `evaluation` says how many and how often.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.evaluation = evaluator, evaluator.evaluation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show responses to validation prompts."""
        self._evaluated(trainer, pl_module, "val", "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show responses to test prompts."""
        self._evaluated(trainer, pl_module, "test", "test")

    def _evaluated(self, trainer: Trainer, module: LightningModule, stage: str, word: str) -> None:
        samples, step = self.evaluator.samples, trainer.global_step
        chosen = choose([sample.score for sample in samples], self.evaluation.samples_shown, step)
        shown = {label: samples[row] for label, row in chosen.items()}
        self._show(trainer, module, (stage, step), f"{word} samples{when(trainer)}", shown)

    def trained_on(self, module: Any, batch: RolloutBatch, prompts: PromptBatch) -> None:
        """Show responses of a training batch if it is its turn.

        Args:
            module: The module that trains.
            batch: All rows of the step, scored; group ids are places in the prompts.
            prompts: The global batch of prompts.
        """
        every, step = self.evaluation.training_samples_every, module.trainer.global_step + 1
        if every is None or step % every:
            return
        chosen = choose(batch.scores.tolist(), self.evaluation.samples_shown, step)
        rows = list(chosen.values())
        texts = decode_responses(module.policy, batch.select(torch.tensor(rows, device=batch.scores.device)))
        groups = batch.group_ids.tolist()
        shown = {
            label: sample_of(batch, prompts, row, text, groups[:row].count(groups[row]))
            for (label, row), text in zip(chosen.items(), texts, strict=True)
        }
        self._show(module.trainer, module, ("train", step), f"training samples of step {step}", shown)

    def _show(self, trainer: Trainer, module: LightningModule, name: tuple[str, int], title: str, shown: Shown) -> None:
        if not shown:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks must ask for it together
        if not trainer.is_global_zero:
            return
        module.print(as_text(title, shown, encoding=sys.stdout.encoding or "utf-8"))
        stage, step = name
        place = trainer.fit_loop.epoch_loop._batches_that_stepped  # the step of the loggers' metrics
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(f"{stage}/samples", as_markdown(shown), place)
            elif isinstance(logger, WandbLogger):
                rows = [{"kind": label, **sample.row()} for label, sample in shown.items()]
                data = [list(row.values()) for row in rows]
                logger.log_table(f"{stage}/samples", columns=list(rows[0]), data=data, step=place)
        if trainer.loggers and not any(isinstance(logger, DummyLogger) for logger in trainer.loggers):
            write_samples(folder / _FOLDER / f"step_{step:06d}_{stage}.jsonl", shown)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remove what a run that goes on has written after its checkpoint."""
        folder = Path(trainer.log_dir or trainer.default_root_dir) / _FOLDER
        if not trainer.is_global_zero or not trainer.training:
            return
        for file in folder.glob("step_*_*.jsonl"):
            step = file.stem.split("_")[1]
            if step.isdigit() and int(step) > checkpoint["global_step"]:
                file.unlink()


def choose(scores: Sequence[float], count: int, step: int) -> dict[str, int]:
    """Choose a few different rows: the best, the worst, a random one, then the next of each.

    Args:
        scores: One score per row; NaN is below all others. Of equal scores the first row counts.
        count: How many rows; fewer if there are fewer.
        step: Names the random choice.

    Returns:
        Row numbers by kind ("best", "worst", "random", "best 2", ...), in this order.

    Example:
        >>> choose([0.0, 1.0, 0.5], 2, step=0)
        {'best': 1, 'worst': 0}
    """
    ranks = [score if score == score else float("-inf") for score in scores]
    rows = range(len(ranks))
    shuffled = torch.randperm(len(ranks), generator=generator("samples", step)).tolist()
    orders = [sorted(rows, key=lambda row: -ranks[row]), sorted(rows, key=lambda row: ranks[row]), shuffled]
    chosen: dict[str, int] = {}
    for turn in range(min(count, len(ranks))):
        again, kind = divmod(turn, len(_KINDS))
        row = next(row for row in orders[kind] if row not in chosen.values())
        chosen[f"{_KINDS[kind]} {again + 1}" if again else _KINDS[kind]] = row
    return chosen


def write_samples(file: Path, shown: Shown) -> None:
    """Write one JSON object per response, replacing the file as a whole."""
    lines = [json.dumps({"kind": label, **sample.row()}) for label, sample in shown.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(f"{line}\n" for line in lines).encode())
