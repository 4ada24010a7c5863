"""`PromptData`: the loaders. They yield prompts; rollouts are made inside the training step."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_choice
from rl4llm.data.absolute_difference import AbsoluteDifference
from rl4llm.data.checking import check_reward, checked_examples
from rl4llm.data.fitting import OverLong, fitting_examples
from rl4llm.data.samplers import Place, PromptSampler, Shuffled
from rl4llm.data.stream import HeldOutPrompts, Progress, PromptStream
from rl4llm.data.task import Example, Split, Task


class PromptData(LightningDataModule):
    """Prompts of a task, in batches.

    Args:
        task: The prompts and their verifier.
        prompts_per_step: Number of prompts of one training step, over all devices together.
        held_out_per_step: Number of prompts of one validation or test step, over all devices together.
        seed: Seed of the order of the training prompts; by default the run's seed.
        sampler: Which training prompts come next; None: all in random order, every epoch.
        overlong: What becomes of prompts that leave no room for a whole response in the policy's context: they are
            dropped and counted, or refused.
    """

    def __init__(
        self,
        task: Task = AbsoluteDifference(),
        prompts_per_step: int = 16,
        held_out_per_step: int = 256,
        seed: int | None = None,
        sampler: PromptSampler | None = None,
        overlong: OverLong = "drop",
    ) -> None:
        super().__init__()
        check_at_least("PromptData", 1, prompts_per_step=prompts_per_step, held_out_per_step=held_out_per_step)
        check_choice("PromptData", ("drop", "refuse"), overlong=overlong)
        self.task, self.seed, self.sampler, self.overlong = task, seed, sampler, overlong
        self.prompts_per_step, self.held_out_per_step = prompts_per_step, held_out_per_step
        self.progress: Progress | None = None
        self._measured: dict[Split, tuple[Any, Sequence[Example]]] = {}

    # --- the place in the prompts -----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the task, and begin the stream of training prompts unless the trainer is in the middle of a run.

        The run's seed is read here, once and before anything has been trained: the loop reseeds the global generators
        at every step. A checkpoint that is loaded afterwards says where the stream goes on.
        """
        check_reward(self.task)
        if stage == "fit":
            self._training_examples()
            self._examples("validation")
        if stage == "fit" and (self.progress is None or not self.trainer or not self.trainer.global_step):
            self.progress = self._begin()

    def _begin(self) -> Progress:
        seed = torch.initial_seed() if self.seed is None else self.seed
        return Progress(Place(self.trainer.strategy.broadcast(seed) if self.trainer else seed))

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the prompts; a step that is not finished counts as not begun."""
        if self.progress is None:
            return {}
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current if self.trainer else None
        return self.progress.state_dict(repeat_latest=batches is not None and batches.ready > batches.processed)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the prompts that come next; a seed that was given explicitly takes the saved one's place."""
        seed = state_dict["seed"] if self.seed is None else self.seed
        self.progress = self.progress or Progress(Place(seed))
        self.progress.load_state_dict({**state_dict, "seed": seed})

    # --- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> PromptStream:
        """Return the training prompts, in the order that the sampler says."""
        examples, size = self._training_examples(), self.prompts_per_step
        overfit = getattr(self.trainer, "overfit_batches", 0)  # steps, or a share of all steps
        if overfit:
            steps = overfit if isinstance(overfit, int) else max(1, int(overfit * (len(examples) // size)))
            examples = examples[: steps * size]
        self.progress = self.progress or self._begin()
        return PromptStream(examples, self.task, size, self.sampler or Shuffled(), self.progress, self._weigh)

    def _weigh(self, uids: Tensor) -> Tensor | None:
        """What a prompt is worth changes as the policy learns, so the module is asked at every step."""
        weigh = getattr(self.trainer.lightning_module, "prompt_priorities", None) if self.trainer else None
        return None if weigh is None else weigh(uids)

    def val_dataloader(self) -> HeldOutPrompts:
        """Return the validation prompts."""
        return HeldOutPrompts(self._examples("validation"), self.task, self.held_out_per_step)

    def test_dataloader(self) -> HeldOutPrompts:
        """Return the test prompts."""
        return HeldOutPrompts(self._examples("test"), self.task, self.held_out_per_step)

    def _training_examples(self) -> Sequence[Example]:
        examples, size = self._examples("train"), self.prompts_per_step
        if len(examples) < size:
            remedy = "lower --data.prompts_per_step or bring more prompts" if len(examples) else "bring some"
            raise UsageError(
                f"PromptData: prompts_per_step is {size}, the training split has {len(examples)} prompts; {remedy}."
            )
        return examples

    def _examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split that fit the policy's context, measured once."""
        module: Any = self.trainer.lightning_module if self.trainer else None
        key = (self.task, getattr(module, "prompt_limit", None), self.overlong)
        known = self._measured.get(split)
        if known is None or known[0] != key:
            examples = checked_examples(self.task, split)
            known = self._measured[split] = (key, fitting_examples(examples, split, module, self.overlong))
        return known[1]
