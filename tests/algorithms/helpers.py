"""A loop over tiny models, how to run it for a few rollout batches, and its steps without a Trainer."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import lightning
import torch
from torch.optim import SGD, AdamW

from rl4llm.advantages import GAE, GroupRelative, Whiten
from rl4llm.algorithms import Evaluation, Runtime, Updates, collect, compose, gather
from rl4llm.algorithms.judge import Passes
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.critics import MiniCritics
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.gates import AgreementGate, DivergenceFilter
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import EntropyBonus
from rl4llm.rewards import Scoring
from rl4llm.rollouts import HuggingFaceRollout, Sampling
from rl4llm.rollouts.hugging_face import HuggingFaceEngine


def even_length(prompt, response, answer):
    """A verifier that untrained policies satisfy half of the time."""
    return float(len(response) % 2 == 0)


TASK = AbsoluteDifference(digits=3, train_size=64, held_out_size=4, reward=even_length)


def slots(**changes):
    return {
        "advantage": GroupRelative(),
        "objective": PPOClip(),
        "optimizer": lambda parameters: AdamW(parameters, lr=1e-2),
        "critic_optimizer": lambda parameters: AdamW(parameters, lr=1e-2),
        "sampling": Sampling(max_response_tokens=6),
        "responses_per_prompt": 4,
        "updates": Updates(warmup_steps=0),
        "evaluation": Evaluation(samples=2),
        "scoring": Scoring(workers=0),
        **changes,
    }


def critic_slots(critic, **changes):
    return slots(
        critics=MiniCritics(critic),
        advantage=GAE(),
        whitening=Whiten(),
        gate=AgreementGate(),
        regularizers={"entropy": EntropyBonus(where=DivergenceFilter())},
        **changes,
    )


def run(module, steps=2, seed=0, callbacks=(), data=None, ckpt_path=None, **options):
    lightning.seed_everything(seed, verbose=False)
    options.setdefault("default_root_dir", tempfile.mkdtemp())  # where a batch goes on which a run stopped
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, data or PromptData(TASK, prompts_per_step=3), ckpt_path=ckpt_path)
    return trainer


def loop(policy, **changes):
    return compose(policy, **slots(**changes))


def rollout(module, prompts=4, seed=0, meter=None):
    """One gathered rollout batch of a module that no Trainer holds."""
    return collected(module, some_prompts(prompts, seed), meter).batch


def some_prompts(count=4, seed=0, task=TASK):
    """The first batch of prompts of a data set."""
    return next(iter(PromptData(task, prompts_per_step=count, seed=seed).train_dataloader()))


def collected(module, prompts, meter=None, runtime=None):
    """What the module collects for some prompts."""
    runtime, meter = runtime or module.runtime(), Meter() if meter is None else meter
    answering, n = module.answering(), module.composition.rollout.responses_per_prompt
    answering.sync(module.policy_version)
    return gather(runtime, lambda: collect(runtime, answering, prompts, meter, responses_per_prompt=n))


def passes(module, before_update=True, version=0):
    """The forward passes that judging asks of a module, without a Trainer."""
    return Passes(
        policy=lambda rows: module._pass(module.runtime(), module.policy, rows, "log_probs"),
        reference=lambda rows, name: module._pass(module.runtime(), module.reference, rows, name),
        version=version,
        before_update=before_update,
    )


def weights(module):
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Seen(PolicyObjective):
    """Keeps every batch that an objective is given."""

    paper = ""

    def __init__(self, inner=None, **declared):
        self.inner, self.batches = inner or PPOClip(), []
        self.reads, self.asks, self.level = self.inner.reads, self.inner.asks, self.inner.level
        self.outputs = []
        for name, value in declared.items():
            setattr(self, name, value)

    def __call__(self, policy, batch):
        self.batches.append(batch)
        self.outputs.append(policy)
        return self.inner(policy, batch)


class Watch(lightning.Callback):
    """Keeps what was logged at every step."""

    def __init__(self):
        self.steps, self.global_steps = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.global_steps.append(trainer.global_step)


@dataclass(frozen=True)
class Recording(HuggingFaceRollout):
    """An engine that keeps what it was asked and what it drew: ids, mask, responses."""

    calls: list = field(default_factory=list)

    def build(self, policy):
        calls = self.calls

        class Recorder(HuggingFaceEngine):
            def generate(self, ids, mask, limits, **options):
                drawn = super().generate(ids, mask, limits, **options)
                calls.append((ids, mask, drawn))
                return drawn

        return Recorder(policy, rows_at_once=self.rows_at_once, top_log_probs=self.top_log_probs)


class Ranks:
    """Several ranks in one process: each is a thread, and gathering waits for all of them."""

    def __init__(self, count):
        self.count, self.sent = count, [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def gather(self, rank, own):
        self.sent[rank] = own
        self.barrier.wait()
        found = list(self.sent)
        self.barrier.wait()
        return found

    def add_gradients(self, rank, module):
        for parameter in module.parameters():
            found = self.gather(rank, None if parameter.grad is None else parameter.grad.clone())
            present = [gradient for gradient in found if gradient is not None]
            parameter.grad = torch.stack(present).sum(0) if present else None

    def runtime(self, rank):
        gather, add_gradients = partial(self.gather, rank), partial(self.add_gradients, rank)
        return Runtime(rank=rank, world_size=self.count, gather=gather, add_gradients=add_gradients)


def on_ranks(count, work):
    """The results of `work(runtime)` on so many ranks, which gather and add gradients as processes would."""
    ranks = Ranks(count)

    def one(rank):
        try:
            return work(ranks.runtime(rank))
        except BaseException:
            ranks.barrier.abort()  # the others would wait for ever
            raise

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(one, rank) for rank in range(count)]
    failed = [error for future in running if (error := future.exception()) is not None]
    cause = [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
    if failed:
        raise (cause or failed)[0]
    return [future.result() for future in running]


__all__ = [
    "SGD",
    "TASK",
    "Recording",
    "Seen",
    "Watch",
    "collected",
    "critic_slots",
    "even_length",
    "loop",
    "on_ranks",
    "passes",
    "rollout",
    "run",
    "slots",
    "some_prompts",
    "weights",
]


def stretched(lengths, groups, prompt):
    """Rows of these lengths after prompts of one length."""
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.ones(len(lengths), prompt, dtype=torch.long)
    return RolloutBatch(
        prompt_ids=ids,
        prompt_mask=ids.bool(),
        response_ids=mask.long(),
        response_mask=mask,
        group_ids=torch.tensor(groups),
        prompt_uids=torch.tensor(groups),
        scores=torch.zeros(len(lengths)),
        truncated=torch.zeros(len(lengths), dtype=torch.bool),
        rewards=torch.zeros(mask.shape),
        rollout_log_probs=torch.zeros(mask.shape),
        old_log_probs=torch.zeros(mask.shape),
    )
