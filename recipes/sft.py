"""Supervised fine-tuning on demonstrations: makes the embedded base models, or warms up any other policy."""

import rl4llm.start

from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.algorithms import Evaluation, Supervised, Updates
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import TinyQwen3
from rl4llm.rollouts import Sampling


def sft(
    policy: str | TinyQwen3 = TinyQwen3(),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-3, weight_decay=0.01),
    updates: Updates = Updates(schedule="linear", warmup_steps=20),
    sampling: Sampling = Sampling(),
    evaluation: Evaluation = Evaluation(),
    stop_at: float | None = None,
) -> Supervised:
    """Imitate the task's demonstrations.

    Args:
        policy: Name of a model to go on from, or the sizes of a small one to make from nothing.
        optimizer: Of the policy.
        updates: Clip-norm and learning-rate schedule.
        sampling: Length limit and temperature of the evaluated responses.
        evaluation: How the policy is judged on held-out prompts.
        stop_at: Held-out sampled accuracy at which training ends; null goes on to the last step.
    """
    stop = [EarlyStopping("val/sampled_accuracy", mode="max", patience=10**9, stopping_threshold=stop_at)]
    return Supervised(
        policy,
        optimizer=optimizer,
        updates=updates,
        sampling=sampling,
        evaluation=evaluation,
        callbacks=[] if stop_at is None else stop,
    )


if __name__ == "__main__":
    RecipeCLI(sft, PromptData, max_steps=800, val_check_interval=100, data_defaults={"prompts_per_step": 128})
