"""How often and how far a model steps on one rollout batch: epochs, minibatches, clip-norm and schedule."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_choice, check_interval

_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
_SHUFFLES = ("prompts", "responses")


@dataclass(frozen=True)
class Updates:
    """Optimizer steps on one rollout batch: `epochs` passes, each cut into `minibatches` of whole rows at random.

    Args:
        epochs: Passes over the rollout batch (the paper's UTD ratio counts these).
        minibatches: Optimizer steps of one pass; they differ by at most one row.
        shuffle: What each pass shuffles before it is cut: single "responses", so that a minibatch has few of the same
            prompt, or "prompts" with all their responses, which then share one computation of the prompt.
        max_grad_norm: Clip-norm of the gradient; None leaves it as it is.
        schedule: Learning rate over training: linear, cosine, constant or constant_with_warmup.
        warmup_steps: Rollout batches over which the learning rate rises.
        microbatch_tokens: Most prompt and response tokens in one forward pass; sets memory and speed, never the
            result. None: 4,096 on a CPU, for its caches, and 16,384 elsewhere, but at least twice the longest prompt,
            so that a prompt does not fill a pass alone.
    """

    epochs: int = 1
    minibatches: int = 4
    shuffle: str = "responses"
    max_grad_norm: float | None = 1.0
    schedule: str = "linear"
    warmup_steps: int = 10
    microbatch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_at_least("Updates", 1, epochs=self.epochs, minibatches=self.minibatches)
        check_at_least("Updates", 1, microbatch_tokens=self.microbatch_tokens)
        check_at_least("Updates", 0, warmup_steps=self.warmup_steps)
        check_interval("Updates", 0.0, ends="(]", max_grad_norm=self.max_grad_norm)
        check_choice("Updates", _SCHEDULES, schedule=self.schedule)
        check_choice("Updates", _SHUFFLES, shuffle=self.shuffle)

    @property
    def steps(self) -> int:
        """Optimizer steps on one rollout batch."""
        return self.epochs * self.minibatches

    def cut(self, groups: Int[Tensor, " unit"], generator: Generator) -> Iterator[Tensor]:
        """Yield the units of each optimizer step, in order; parts differ by at most one unit and may be empty.

        Args:
            groups: The prompt of each unit, numbered 0, 1, ...
            generator: Random numbers of the order.
        """
        for _ in range(self.epochs):
            order = torch.randperm(len(groups), generator=generator)
            if self.shuffle == "prompts" and len(groups):
                places = torch.randperm(int(groups.max()) + 1, generator=generator)
                order = order[places[groups[order]].argsort(stable=True)]
            yield from order.tensor_split(self.minibatches)

    def budget(self, batch: RolloutBatch) -> int:
        """Return the most tokens of one forward pass over rows of this batch, whose device sets the default."""
        longest = int(batch.prompt_mask.sum(-1).max()) if len(batch) else 0
        return self.tokens(batch.prompt_ids.device.type == "cpu", longest)

    def tokens(self, on_cpu: bool, longest_prompt: int) -> int:
        """Return the most tokens of one forward pass, for a kind of device and the longest prompt."""
        if self.microbatch_tokens is not None:
            return self.microbatch_tokens
        return max(4096 if on_cpu else 16384, 2 * longest_prompt)

    def scheduler(self, optimizer: Optimizer, total_steps: float) -> LRScheduler:
        """The learning-rate schedule, stepped once a rollout batch.

        Raises:
            UsageError: If the rate is to fall to zero over a training without end.
        """
        if total_steps == float("inf") and not self.schedule.startswith("constant"):
            raise UsageError(
                f"Updates: schedule={self.schedule} needs an end of training; "
                "set --trainer.max_steps, or schedule=constant."
            )
        steps = None if total_steps == float("inf") else int(total_steps)
        return get_scheduler(self.schedule, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=steps)
