"""`PromptData`: the loaders. They yield prompts; rollouts are made inside the training step."""

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.absolute_difference import AbsoluteDifference
from rl4llm.data.task import Example, PromptBatch, Split, Task


class PromptData(LightningDataModule):
    """Prompts of a task, in batches.

    Args:
        task: The prompts and their verifier.
        prompts_per_step: Prompts of one training step (on each device).
        held_out_per_step: Prompts of one validation or test step.
        seed: Order of the training prompts; by default the run's seed.
    """

    def __init__(
        self,
        task: Task = AbsoluteDifference(),
        prompts_per_step: int = 32,
        held_out_per_step: int = 256,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("PromptData", 1, prompts_per_step=prompts_per_step, held_out_per_step=held_out_per_step)
        self.task, self.seed = task, seed
        self.prompts_per_step, self.held_out_per_step = prompts_per_step, held_out_per_step

    def _loader(self, split: Split, size: int) -> DataLoader[Example]:
        examples = self.task.examples(split)
        training = split == "train"
        if training and len(examples) < size:
            raise UsageError(
                f"PromptData: prompts_per_step is {size}, the training split has {len(examples)} prompts; "
                "lower --data.prompts_per_step or bring more prompts."
            )
        seed = torch.initial_seed() if self.seed is None else self.seed
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_size=size,
            shuffle=training,
            drop_last=training,
            generator=torch.Generator().manual_seed(seed) if training else None,
            collate_fn=lambda drawn: PromptBatch(drawn, self.task),
        )

    def train_dataloader(self) -> DataLoader[Example]:
        """Shuffled training prompts."""
        return self._loader("train", self.prompts_per_step)

    def val_dataloader(self) -> DataLoader[Example]:
        """Held-out prompts."""
        return self._loader("validation", self.held_out_per_step)

    def test_dataloader(self) -> DataLoader[Example]:
        """Test prompts."""
        return self._loader("test", self.held_out_per_step)
