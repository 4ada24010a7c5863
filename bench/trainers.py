"""The same work for two trainers: rl4llm's GRPO recipe and TRL's `GRPOTrainer`."""

import runpy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from datasets import Dataset
from devices import Device
from stepping import Pause
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rl4llm.algorithms import PolicyGradient
from rl4llm.algorithms.updates import Updates
from rl4llm.data import PromptData
from rl4llm.data.task import Task
from rl4llm.models import Policy, load_tokenizer, resolve_model
from rl4llm.rewards import Scoring
from rl4llm.rollouts import Sampling

GRPO = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "grpo.py"))["grpo"]
CPU = Device()
NEVER = [-1]  # an end token that no model writes


@dataclass(frozen=True)
class Work:
    """What both trainers do: AdamW without weight decay at a constant rate, clip-norm 1, temperature 1, no KL.

    Args:
        model: Of the policy.
        task: Prompts and reward.
        prompts: Prompts of a rollout batch.
        copies: Responses to each prompt.
        tokens: Most tokens of a response.
        updates: Optimizer steps on a rollout batch.
        forced: Whether every response has that many tokens, because no token ends one.
        rate: Learning rate.
        batches: Rollout batches of the whole training.
        device: Where they train; with bfloat16, both keep float32 weights and use autocast.
    """

    model: str
    task: Task
    prompts: int
    copies: int
    tokens: int
    updates: int = 1
    forced: bool = False
    rate: float = 2e-5
    batches: int = 1
    device: Device = CPU

    @property
    def mixed(self) -> bool:
        """Whether products are in bfloat16."""
        return self.device.dtype == torch.bfloat16

    def policy(self, model: PreTrainedModel | None = None) -> Policy:
        """Load the policy, or take the model as its own, with room for the longest prompt and response."""
        policy = Policy.load(self.model) if model is None else Policy(model, load_tokenizer(self.model))
        config = policy.model.config.get_text_config()
        config.max_position_embeddings = max(config.max_position_embeddings, 256)  # rotary positions have no end
        if self.forced:
            policy.end_ids = NEVER
        return policy

    def data(self) -> PromptData:
        """Return the prompts in an order that is the same for both trainers."""
        return PromptData(self.task, prompts_per_step=self.prompts, seed=0)

    def rows(self) -> Dataset:
        """Return the prompts as a data set in that order."""
        batches = islice(self.data().train_dataloader(), self.batches)
        examples = [example for batch in batches for example in batch.examples]
        return Dataset.from_list([{"prompt": one.prompt, "answer": one.answer} for one in examples])


@dataclass(frozen=True)
class Contestant:
    """A trainer that is ready to run.

    Args:
        policy: What it trains.
        train: Trains to the end, and calls `pause` after each rollout batch.
        length: Returns the mean number of tokens of the responses of the last rollout batch.
    """

    policy: Policy
    train: Callable[[Pause], None]
    length: Callable[[], float]


class _AfterBatch(lightning.Callback):
    def __init__(self, pause: Pause) -> None:
        self.pause = pause

    def on_train_batch_end(self, *_: object) -> None:
        self.pause()


def rl4llm_trainer(work: Work) -> Contestant:
    """Build the recipe `grpo` under a Lightning Trainer without logger, checkpoints and evaluation."""
    policy = work.policy()
    module: PolicyGradient = GRPO(
        policy,
        responses_per_prompt=work.copies,
        sampling=Sampling(temperature=1.0, max_response_tokens=work.tokens),
        scoring=Scoring(workers=0),  # TRL calls the reward in its own process
        updates=Updates(minibatches=work.updates, max_grad_norm=1.0, schedule="constant", warmup_steps=0),
        optimizer=lambda params: AdamW(params, lr=work.rate, weight_decay=0.0, fused=True),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    where = {"accelerator": "gpu" if work.device.is_gpu else "cpu", "devices": 1}
    where |= {"precision": "bf16-mixed" if work.mixed else "32-true"}

    def train(pause: Pause) -> None:
        trainer = lightning.Trainer(max_steps=work.batches, callbacks=[_AfterBatch(pause)], **where, **quiet)
        trainer.fit(module, work.data())

    return Contestant(policy, train, lambda: float(module.trainer.callback_metrics["train/response_length"]))


class _AfterUpdates(TrainerCallback):
    def __init__(self, pause: Pause, updates: int) -> None:
        self.pause, self.updates = pause, updates

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        if not state.global_step % self.updates:
            self.pause()


def trl_trainer(work: Work) -> Contestant:
    """Build TRL's `GRPOTrainer` without logs, checkpoints and evaluation, on a model as transformers loads it."""
    policy = work.policy(AutoModelForCausalLM.from_pretrained(resolve_model(work.model), dtype="float32"))

    def reward(prompts: list[str], completions: list[str], answer: list[str], **_: object) -> list[float]:
        return [work.task.reward(*one) for one in zip(prompts, completions, answer, strict=True)]

    trainer = GRPOTrainer(policy.model, reward, _configuration(work), work.rows(), None, policy.tokenizer)
    if work.forced:
        trainer.eos_token_ids = trainer.generation_config.eos_token_id = NEVER

    def train(pause: Pause) -> None:
        trainer.add_callback(_AfterUpdates(pause, work.updates))
        trainer.train()

    return Contestant(policy, train, lambda: trainer._metrics["train"]["completions/mean_length"][-1])


def _configuration(work: Work) -> GRPOConfig:
    rows = work.prompts * work.copies
    return GRPOConfig(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=rows // work.updates,
        steps_per_generation=work.updates,
        gradient_accumulation_steps=1,
        max_steps=work.batches * work.updates,
        num_generations=work.copies,
        max_completion_length=work.tokens,
        temperature=1.0,
        learning_rate=work.rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="grpo",  # the mean over tokens, then over responses, as SequenceMean
        epsilon=0.2,
        gradient_checkpointing=False,  # it would compute activations twice
        bf16=work.mixed,
        use_cpu=not work.device.is_gpu,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
