"""A loop over tiny models, and how to run it for a few rollout batches."""

import lightning
from torch.optim import SGD, AdamW

from rl4llm.advantages import GAE, GroupRelative, Whiten
from rl4llm.algorithms import Evaluation, Updates, collect, compose, gather
from rl4llm.algorithms.meter import Meter
from rl4llm.critics import MiniCritics
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.gates import AgreementGate, DivergenceFilter
from rl4llm.objectives import PPOClip
from rl4llm.regularizers import EntropyBonus
from rl4llm.rewards import Scoring
from rl4llm.rollouts import Sampling


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
    batch = next(iter(PromptData(TASK, prompts_per_step=prompts, seed=seed).train_dataloader()))
    return collected(module, batch, meter).batch


def collected(module, prompts, meter=None):
    """What the module collects for some prompts."""
    runtime, answering, meter = module.runtime(), module.answering(), Meter() if meter is None else meter
    answering.sync(module.policy_version)
    n = module.composition.rollout.responses_per_prompt
    return gather(runtime, lambda: collect(runtime, answering, prompts, meter, responses_per_prompt=n))


__all__ = ["SGD", "TASK", "collected", "critic_slots", "even_length", "loop", "rollout", "run", "slots"]
