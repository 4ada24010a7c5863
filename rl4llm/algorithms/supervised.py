"""`Supervised`: imitation of demonstrations, which makes the base models that reinforcement learning starts from."""

from collections.abc import Sequence

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from rl4llm.algorithms.evaluation import Evaluation, Evaluator
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import reinforce, token_mean
from rl4llm.rollouts import Sampling, encode_prompts


def demonstrations(policy: Policy, prompts: PromptBatch) -> RolloutBatch:
    """Prompts with their demonstrations as responses, each closed by the end of sequence; every advantage is 1."""
    device = next(policy.parameters()).device
    texts = [example.demonstration for example in prompts.examples]
    if any(text is None for text in texts):
        raise UsageError("supervised training needs a demonstration for every prompt; some example has none.")
    end = [policy.tokenizer.eos_token_id] if policy.tokenizer.eos_token_id is not None else []
    rows = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in texts]
    time = max(len(row) for row in rows)
    ids, mask = encode_prompts(policy, prompts.prompts, time)
    response_ids = torch.tensor([row + [policy.pad_id] * (time - len(row)) for row in rows])
    response_mask = torch.arange(time) < torch.tensor([len(row) for row in rows])[:, None]
    batch, zeros = len(rows), torch.zeros(len(rows), time)
    return RolloutBatch(
        prompt_ids=ids,
        prompt_mask=mask,
        response_ids=response_ids,
        response_mask=response_mask,
        group_ids=torch.arange(batch),
        prompt_uids=prompts.uids,
        scores=torch.ones(batch),
        truncated=torch.zeros(batch, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        advantages=torch.ones(batch, time),
    ).to(device)


class Supervised(LightningModule):
    """Maximum likelihood of demonstrations: REINFORCE with advantage 1 on every token.

        L = − (1 / tokens) Σ log π(token)

    Args:
        policy: Model name to go on from, or a `TinyQwen3` to make from nothing.
        optimizer: Of the policy.
        updates: Clip-norm and schedule (epochs and minibatches are the loader's here).
        evaluation: How the policy is judged.
        sampling: Length limit and temperature of the evaluated responses.
        callbacks: Added to the Trainer's, for example to stop early.
    """

    def __init__(
        self,
        policy: str | TinyQwen3,
        *,
        optimizer: OptimizerCallable,
        updates: Updates,
        evaluation: Evaluation,
        sampling: Sampling,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        self.policy = Policy.load(policy) if isinstance(policy, str) else Policy(*policy.build())
        self.evaluator = Evaluator(evaluation, sampling)
        self.optimizer, self.updates = optimizer, updates
        self.callbacks = list(callbacks)

    def configure_callbacks(self) -> list[Callback]:
        """Those that came with the module."""
        return self.callbacks

    def training_step(self, prompts: PromptBatch, batch_index: int) -> Tensor:
        """Cross-entropy of the demonstrations."""
        batch = demonstrations(self.policy, prompts)
        assert batch.advantages is not None
        output = self.policy(batch)
        loss = token_mean(reinforce(output.log_probs, batch.advantages, batch.response_mask), batch.response_mask)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, its learning rate scheduled by step."""
        optimizer = self.optimizer(self.policy.parameters())
        scheduler = self.updates.scheduler(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the schedule's norm unless the Trainer names one."""
        value = self.updates.max_grad_norm if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(
            optimizer, gradient_clip_val=value, gradient_clip_algorithm=gradient_clip_algorithm or "norm"
        )

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.evaluator.restart()

    def validation_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Judge the policy on held-out prompts."""
        self.evaluator.step(self, self.policy, prompts, "val")

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.evaluator.restart()

    def test_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Judge the policy on test prompts."""
        self.evaluator.step(self, self.policy, prompts, "test")
