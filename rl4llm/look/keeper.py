"""`RowKeeper`: keeps the annotated rows of chosen rollout batches in the run folder."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.algorithms.watching import BatchCallback, LogProbs
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.extras import needed
from rl4llm.data.task import PromptBatch
from rl4llm.look.files import FOLDER, encode_rows, row_files
from rl4llm.look.rows import first_groups, row_columns
from rl4llm.runs.atomic import write_atomically


class RowKeeper(BatchCallback):
    """Writes `rows/step_<step>.parquet`: per response and token, what the run knew when it learned from a batch.

    `rl4llm look RUN_FOLDER` shows the files. Each costs one forward pass of the policy over its rows, which tells how
    far the update moved each token. Metrics and random numbers of the run do not depend on it. The first rank writes; a
    run that goes on removes the files of steps after its checkpoint.

    Args:
        every_n_batches: Rollout batches after which rows are kept; None: only the first and the last batch.
        first_and_last: Keep the rows of the first and the last rollout batch, where pyarrow is installed.
        most_responses: Responses kept of one batch: those of its first prompts, whole groups.

    Raises:
        UsageError: If `every_n_batches` is given and pyarrow is not installed, or a number is below 1.

    Example:
        >>> RowKeeper(first_and_last=False).due(1, last=100)
        False
    """

    def __init__(
        self, *, every_n_batches: int | None = None, first_and_last: bool = True, most_responses: int = 256
    ) -> None:
        check_at_least("RowKeeper", 1, every_n_batches=every_n_batches, most_responses=most_responses)
        self.every_n_batches, self.most_responses = every_n_batches, most_responses
        self.first_and_last = first_and_last and find_spec("pyarrow") is not None
        if every_n_batches is not None:
            needed("pyarrow", f"rows.every_n_batches={every_n_batches}", "data")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise if rows are asked of a module that has none."""
        if self.every_n_batches is not None and not isinstance(pl_module, PolicyGradient):
            raise UsageError(
                f"rows.every_n_batches={self.every_n_batches}: {type(pl_module).__name__} learns from no rollout "
                "batches, so there are no rows to keep; leave the flag out."
            )

    def due(self, step: int, last: float) -> bool:
        """Return whether the rows of this step are kept, in a run that ends with the step `last`."""
        ends = self.first_and_last and (step == 1 or step == last)
        return ends or (self.every_n_batches is not None and step % self.every_n_batches == 0)

    def on_rollout_batch(self, module: Any, batch: RolloutBatch, prompts: PromptBatch, log_probs: LogProbs) -> None:
        """Write the rows if it is their turn."""
        trainer, step = module.trainer, module.trainer.global_step
        logged = trainer.loggers and not any(isinstance(logger, DummyLogger) for logger in trainer.loggers)
        if not logged or not self.due(step, trainer.estimated_stepping_batches):
            return
        rows = batch.select(first_groups(batch.group_ids, self.most_responses).to(batch.scores.device)).trim()
        present: Tensor = log_probs(rows).cpu()
        folder = module.run_folder() / FOLDER  # all ranks ask together
        if not trainer.is_global_zero:
            return
        filters = [slot if part.where else "" for slot, part in module.composition.loss.active_regularizers().items()]
        columns = row_columns(rows.to("cpu"), prompts, module.policy, present, step=step, filters=filters)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"step_{step:06d}.parquet", encode_rows(columns))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remove what a run that goes on has written after its checkpoint."""
        run = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero and trainer.training:
            for step, file in row_files(run).items():
                if step > checkpoint["global_step"]:
                    file.unlink()
