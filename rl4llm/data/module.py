"""`PromptData`: the loaders. They yield prompts; rollouts are made inside the training step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.absolute_difference import AbsoluteDifference
from rl4llm.data.samplers import PromptSampler, Steps
from rl4llm.data.task import Example, PromptBatch, Task


class PromptData(LightningDataModule):
    """Prompts of a task, in batches.

    Args:
        task: The prompts and their verifier.
        prompts_per_step: Prompts of one training step (on each device).
        held_out_per_step: Prompts of one validation or test step.
        seed: Order of the training prompts; by default the run's seed.
        sampler: Which training prompts come next; None: all in random order, every epoch.
    """

    def __init__(
        self,
        task: Task = AbsoluteDifference(),
        prompts_per_step: int = 32,
        held_out_per_step: int = 256,
        seed: int | None = None,
        sampler: PromptSampler | None = None,
    ) -> None:
        super().__init__()
        check_at_least("PromptData", 1, prompts_per_step=prompts_per_step, held_out_per_step=held_out_per_step)
        self.task, self.seed, self.sampler = task, seed, sampler
        self.prompts_per_step, self.held_out_per_step = prompts_per_step, held_out_per_step

    def train_dataloader(self) -> DataLoader[Example]:
        """Training prompts, as the sampler says."""
        examples, size = self.task.examples("train"), self.prompts_per_step
        if len(examples) < size:
            raise UsageError(
                f"PromptData: prompts_per_step is {size}, the training split has {len(examples)} prompts; "
                "lower --data.prompts_per_step or bring more prompts."
            )
        generator = torch.Generator().manual_seed(torch.initial_seed() if self.seed is None else self.seed)
        if self.sampler is None:
            return self._loader(examples, batch_size=size, shuffle=True, drop_last=True, generator=generator)
        uids = torch.tensor([examples[index].uid for index in range(len(examples))])
        return self._loader(examples, batch_sampler=Steps(self.sampler, uids, size, self._weigh, generator))

    def _weigh(self, uids: Tensor) -> Tensor | None:
        """Asked at every step, because what a prompt is worth changes as the policy learns."""
        weigh = getattr(self.trainer.lightning_module, "prompt_priorities", None) if self.trainer else None
        return None if weigh is None else weigh(uids)

    def val_dataloader(self) -> DataLoader[Example]:
        """Held-out prompts."""
        return self._loader(self.task.examples("validation"), batch_size=self.held_out_per_step)

    def test_dataloader(self) -> DataLoader[Example]:
        """Test prompts."""
        return self._loader(self.task.examples("test"), batch_size=self.held_out_per_step)

    def _loader(self, examples: Sequence[Example], **options: Any) -> DataLoader[Example]:
        collate = partial(PromptBatch, task=self.task)
        return DataLoader(examples, collate_fn=collate, **options)  # type: ignore[arg-type]
