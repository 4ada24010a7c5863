"""`Supervised`: imitation of demonstrations, which makes the base models that reinforcement learning starts from."""

from collections.abc import Sequence

import torch
from lightning import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from rl4llm.algorithms.building import build_optimizer
from rl4llm.algorithms.deal import Dealt
from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.algorithms.policy_module import PolicyModule
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data.task import PromptBatch
from rl4llm.models import ModelSource, Policy, TinyQwen3
from rl4llm.objectives import reinforce, token_mean
from rl4llm.progress import progress
from rl4llm.rewards import Scoring
from rl4llm.rollouts import HuggingFaceRollout, Sampling, encode_prompts


def demonstrations(policy: Policy, prompts: PromptBatch) -> RolloutBatch:
    """Return prompts with their demonstrations as responses, each closed by the end of sequence; advantages are 1."""
    device = next(policy.parameters()).device
    texts = [example.demonstration for example in prompts.examples]
    if any(text is None for text in texts):
        raise UsageError(
            "supervised training needs a demonstration for every prompt, but an example has none; add it to the task."
        )
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


class Supervised(PolicyModule):
    """Maximum likelihood of demonstrations: REINFORCE with advantage 1 on every token.

        L = − (1 / tokens) Σ log π(token)

    On several devices each takes a share of the global batch of prompts, and the mean is over all of its tokens.

    Args:
        policy: Model to go on from, or a `TinyQwen3` to make from nothing.
        optimizer: Optimizer of the policy.
        updates: Clip-norm and schedule (epochs and minibatches are the loader's here).
        evaluation: How the policy is evaluated.
        sampling: Length limit and temperature of the evaluated responses.
        scoring: How the reward is run.
        callbacks: Added to the Trainer's, for example to stop early.
    """

    def __init__(
        self,
        policy: ModelSource | TinyQwen3,
        *,
        optimizer: OptimizerCallable,
        updates: Updates,
        evaluation: Evaluation,
        sampling: Sampling,
        scoring: Scoring = Scoring(),
        callbacks: Sequence[Callback] = (),
    ) -> None:
        with progress.phase("loading the policy"):
            held = Policy(*policy.build()) if isinstance(policy, TinyQwen3) else Policy.load(policy)
        super().__init__(held, HuggingFaceRollout(), scoring, sampling, evaluation, callbacks)
        self.optimizer, self.updates = optimizer, updates

    def training_step(self, prompts: PromptBatch, batch_index: int) -> Tensor:
        """Return the cross-entropy of the demonstrations."""
        runtime, whole = self.runtime(), demonstrations(self.policy, prompts)
        dealt = Dealt(whole, runtime.world_size)
        own = whole.select(dealt.shares[runtime.rank])
        if not len(own):
            first = whole.split([1, len(whole) - 1])[0]
            own = first.replace(response_mask=torch.zeros_like(first.response_mask))
        (advantages,) = own.require("advantages", by="Supervised")
        # Gradients are averaged over ranks, so each rank's sum is divided by the tokens of all ranks per rank.
        tokens = whole.response_mask.sum() / runtime.world_size
        log_probs = self.policy(own).log_probs
        losses = reinforce(log_probs, advantages, own.response_mask)
        loss = token_mean(losses, own.response_mask, normalizer=tokens)
        shown = runtime.sum(loss.detach().reshape(1))[0] / runtime.world_size
        self.log("train/loss", shown, prog_bar=True, batch_size=len(whole))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, its learning rate scheduled by step."""
        optimizer = build_optimizer("policy", self.optimizer, self.policy)
        scheduler = self.updates.scheduler(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the schedule's norm unless the Trainer names one."""
        value = self.updates.max_grad_norm if gradient_clip_val is None else gradient_clip_val
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), float("inf") if value is None else value)
