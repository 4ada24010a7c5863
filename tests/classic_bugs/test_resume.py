"""A run that is saved and loaded goes on as if it had never stopped."""

import lightning
import pytest
import torch

from rl4llm.advantages import SingleStream
from rl4llm.algorithms import Guards, Updates, compose
from rl4llm.critics import BetaTracker
from rl4llm.data import Prioritized, PromptData
from rl4llm.objectives import ImportanceWeighted, PolicyObjective, PPOClip
from rl4llm.regularizers import Constrained, KLPenalty, RatioPenalty
from rl4llm.replay import FIFOReplay
from rl4llm.rollouts import DynamicSampling
from tests.algorithms.helpers import TASK, critic_slots, run, slots

UPDATES = Updates(minibatches=2, warmup_steps=2)


class Saving(lightning.Callback):
    """Saves once, after the first loader batch for which `when` holds, and keeps every batch's prompts and rewards."""

    def __init__(self, path=None, when=None):
        self.path, self.when, self.prompts, self.shown, self.saved = path, when, [], [], None

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self.prompts.append(batch.prompts)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        clocks = ("time/", "train/tokens_per_second")
        self.shown.append({n: str(float(x)) for n, x in trainer.callback_metrics.items() if not n.startswith(clocks)})
        if self.when is not None and self.saved is None and self.when(module, trainer):
            self.saved = len(self.prompts)
            trainer.save_checkpoint(self.path)


class Sometimes(PolicyObjective):
    """PPO's loss, which is not a number for about a third of the minibatches, whichever run they are in."""

    paper = ""
    reads = ("advantages",)

    def __call__(self, policy, batch):
        loss = PPOClip()(policy, batch)
        return loss * (float("nan") if int(batch.response_ids.sum()) % 3 == 0 else 1.0)


def after(steps):
    return lambda module, trainer: trainer.global_step == steps


def amid_a_search(module, trainer):
    return trainer.global_step >= 1 and bool(module.dynamic_sampling.found)


def flat(value, name):
    """Every tensor and plain value within nested containers, by its place."""
    if isinstance(value, dict):
        pairs = [(f"{name}/{key}", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{name}/{index}", part) for index, part in enumerate(value)]
    else:
        return {name: value}
    return {place: leaf for key, part in pairs for place, leaf in flat(part, key).items()}


def state(module, trainer):
    """All that a run is: weights and what parts have gathered, optimizers, schedules, counters."""
    loop = {}
    module.on_save_checkpoint(loop)
    whole = {"module": dict(module.state_dict()), "loop": loop, "data": trainer.datamodule.state_dict()}
    whole["optimizers"] = [optimizer.state_dict() for optimizer in trainer.optimizers]
    whole["schedules"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return flat(whole, "")


def same(a, b):
    assert set(a) == set(b)
    for name, value in a.items():
        equal = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert equal or callable(value), name


COMPOSITIONS = {
    "critics": (lambda critic: critic_slots(critic, updates=UPDATES), after(2), {}),
    "dynamic sampling": (
        lambda critic: slots(dynamic_sampling=DynamicSampling(max_draws=9), updates=UPDATES),
        amid_a_search,
        {},
    ),
    "replay and a constraint": (
        lambda critic: slots(
            objective=ImportanceWeighted(),
            replay=FIFOReplay(capacity=64, share=0.5),
            regularizers={"variance": Constrained(RatioPenalty(), limit=0.0, lr=1.0)},
            updates=UPDATES,
        ),
        after(2),
        {},
    ),
    "a tracker": (
        lambda critic: slots(
            critics=BetaTracker(samples=2), advantage=SingleStream(), responses_per_prompt=1, updates=UPDATES
        ),
        after(2),
        {"sampler": Prioritized()},
    ),
    "skipped steps": (
        lambda critic: slots(objective=Sometimes(), guards=Guards(skipped=99), updates=UPDATES),
        after(2),
        {},
    ),
    "a reference that moves": (
        lambda critic: slots(regularizers={"kl": KLPenalty(0.1)}, reference_interval=1, updates=UPDATES),
        after(2),
        {},
    ),
    "warm-up": (
        lambda critic: critic_slots(critic, critic_warmup=3, learn_critics_first=True, updates=UPDATES),
        after(2),
        {},
    ),
}


@pytest.mark.filterwarnings("ignore:policy. loss is nan")
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_resumed_run_is_the_run_that_never_stopped_to_the_last_bit(tiny_policy, tiny_critic, tmp_path, name):
    made, when, data = COMPOSITIONS[name]

    def fit(saving, **options):
        module = compose(tiny_policy, **made(tiny_critic))
        prompts = PromptData(TASK, prompts_per_step=3, **data)
        trainer = run(module, steps=4, callbacks=[saving], data=prompts, default_root_dir=tmp_path, **options)
        return state(module, trainer), module

    straight, resumed = Saving(tmp_path / "half.ckpt", when), Saving()
    whole, module = fit(straight)
    assert straight.saved is not None
    half, _ = fit(resumed, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.prompts == straight.prompts[straight.saved :]
    assert len(resumed.prompts) >= 2
    assert resumed.shown[-1] == straight.shown[-1]
    same(whole, half)
    assert name != "skipped steps" or module.health.skipped["policy"] > 0


def test_the_seed_of_the_saved_run_counts_and_not_that_of_the_process(tiny_policy, tmp_path):
    def fit(saving, seed, **options):
        module = compose(tiny_policy, **slots(updates=UPDATES))
        return state(module, run(module, steps=3, callbacks=[saving], seed=seed, **options))

    saving = Saving(tmp_path / "half.ckpt", after(1))
    whole = fit(saving, seed=0)
    resumed = Saving()
    same(whole, fit(resumed, seed=9, ckpt_path=tmp_path / "half.ckpt"))
    assert resumed.prompts == saving.prompts[1:]


def test_a_checkpoint_holds_tensors_and_plain_values_only(tiny_policy, tmp_path):
    module = compose(tiny_policy, **slots(replay=FIFOReplay(capacity=64), dynamic_sampling=DynamicSampling()))
    run(module, steps=2).save_checkpoint(tmp_path / "last.ckpt")
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert loaded["loop"]["counters"]["drawn"] == module.drawn >= 2
