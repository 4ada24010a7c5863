"""A class of the user's own fits every slot, from the command line and without touching the library."""

import importlib
import sys

import pytest

from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData

MINE = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from rl4llm.advantages import AdvantageEstimator, Advantages, Whiten
from rl4llm.corrections import Correction
from rl4llm.critics import ValueSource, ValueSpec
from rl4llm.data import Example, PromptSampler, Task
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import KLReward, Regularizer
from rl4llm.replay import Replay, ReplaySpec
from rl4llm.rewards import Reward, RewardShaping
from rl4llm.rollouts import DynamicSampling, EngineSpec, HuggingFaceRollout

USED = set()


class Marked:
    paper: ClassVar[str] = ""

    def used(self):
        USED.add(type(self).__name__)


@dataclass(frozen=True)
class MyAdvantage(Marked, AdvantageEstimator):
    scale: float = 1.0
    reads: ClassVar = ("values",)

    def __call__(self, batch):
        self.used()
        return Advantages(self.scale * (batch.rewards - batch.values) * batch.response_mask, batch.rewards)


@dataclass(frozen=True)
class MyObjective(Marked, PolicyObjective):
    power: int = 1

    def __call__(self, policy, batch):
        self.used()
        return -policy.log_probs * batch.advantages**self.power * batch.response_mask


@dataclass(frozen=True)
class MyAggregator(Marked, Aggregator):
    def count(self, mask):
        return mask.sum()

    def __call__(self, per_token, mask, *, normalizer=None):
        self.used()
        return per_token.sum() / (self.count(mask) if normalizer is None else normalizer).clamp(min=1)


class Halves(ValueSource):
    def values(self, batch, context):
        USED.add("MyCritics")
        return batch.replace(values=0.5 * batch.response_mask)

    def learn(self, batch, context):
        pass

    def priorities(self, uids):
        return torch.ones(len(uids))


@dataclass(frozen=True)
class MyCritics(ValueSpec):
    def build(self, source, policy):
        return Halves()

    def check(self, source, responses_per_prompt):
        pass


@dataclass(frozen=True)
class MyWhitening(Whiten):
    def __call__(self, advantages, batch):
        USED.add("MyWhitening")
        return advantages


@dataclass(frozen=True)
class MyCorrection(Marked, Correction):
    def __call__(self, batch):
        self.used()
        return batch.response_mask.float()


@dataclass(frozen=True)
class MyGate(Marked, Gate):
    phase: int = 0

    def __call__(self, batch):
        self.used()
        keep = batch.response_mask.clone()
        keep[:, self.phase :: 2] = False
        return keep


@dataclass(frozen=True)
class MyPenalty(Marked, Regularizer):
    coef: float = 0.1
    where: Gate | None = None

    def __call__(self, policy, batch):
        self.used()
        return self.coef * policy.log_probs.square() * batch.response_mask


@dataclass(frozen=True)
class MyKLReward(KLReward):
    def __call__(self, batch):
        USED.add("MyKLReward")
        return super().__call__(batch)


@dataclass(frozen=True)
class MyShaping(Marked, RewardShaping):
    def __call__(self, batch):
        self.used()
        return batch.rewards


class Nothing(Replay):
    def mix(self, batch, generator):
        USED.add("MyReplay")
        return batch

    def add(self, batch):
        pass


@dataclass(frozen=True)
class MyReplay(ReplaySpec):
    def build(self):
        return Nothing()


@dataclass(frozen=True)
class MyDynamicSampling(DynamicSampling):
    def build(self):
        USED.add("MyDynamicSampling")
        return lambda batch, prompts: (batch, prompts)


@dataclass(frozen=True)
class MyEngine(EngineSpec):
    rows: int = 2

    def build(self, policy):
        USED.add("MyEngine")
        return HuggingFaceRollout(self.rows).build(policy)


def my_reward(prompt, response, answer):
    Path("scored").touch()  # rewards run in processes of their own
    return len(response) % 2


@dataclass(frozen=True)
class MyTask(Task):
    size: int = 8
    reward: Reward = my_reward

    def examples(self, split):
        USED.add("MyTask")
        return [Example(f"{index}=", str(index), index) for index in range(self.size)]

    def traits(self, response):
        return {"odd": float(len(response) % 2)}


@dataclass(frozen=True)
class MySampler(PromptSampler):
    last: bool = False

    def keep(self, weights, size):
        return None

    def draw(self, weights, place, count, size):
        USED.add("MySampler")
        return torch.arange(count)[-size:] if self.last else torch.arange(size)
"""

FLAGS = {
    "model.advantage": "MyAdvantage",
    "model.objective": "MyObjective",
    "model.aggregator": "MyAggregator",
    "model.critics": "MyCritics",
    "model.whitening": "MyWhitening",
    "model.correction": "MyCorrection",
    "model.gate": "MyGate",
    "model.kl": "MyPenalty",
    "model.kl_reward": "MyKLReward",
    "model.length_penalty": "MyShaping",
    "model.replay": "MyReplay",
    "model.dynamic_sampling": "MyDynamicSampling",
    "model.engine": "MyEngine",
    "data.task": "MyTask",
    "data.sampler": "MySampler",
}
OPTIONS = [
    "--model.advantage.scale=2.0",
    "--model.gate.phase=1",
    "--model.objective.power=1",
    "--model.engine.rows=4",
    "--data.sampler.last=true",
    "--data.task.size=6",
    "--data.task.reward=mine.my_reward",
]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as for a script that lies elsewhere
    yield lambda: sys.modules["mine"]
    sys.modules.pop("mine", None)


def test_every_slot_takes_a_class_of_the_users_own(mine, tmp_path):
    grpo = importlib.import_module("recipes.grpo").grpo
    flags = [f"--{slot}=mine.{name}" for slot, name in FLAGS.items()]
    small = ["--trainer.max_steps=2", "--data.prompts_per_step=2", "--trainer.enable_progress_bar=false"]
    run = RecipeCLI(grpo, PromptData, args=["fit", *flags, *OPTIONS, *small])
    assert set(FLAGS.values()) <= mine().USED
    assert (tmp_path / "scored").exists()
    composition = run.model.composition
    assert (composition.loss.gate.phase, composition.credit.advantage.scale) == (1, 2.0)
    assert (composition.rollout.engine.rows, run.datamodule.sampler.last, run.datamodule.task.size) == (4, True, 6)


def test_a_reward_is_named_by_its_import_path(mine, tmp_path):
    grpo = importlib.import_module("recipes.grpo").grpo
    small = ["--trainer.max_steps=1", "--data.prompts_per_step=2", "--trainer.enable_progress_bar=false"]
    held_out = ["--data.task.held_out_size=2", "--model.evaluation.samples=2"]
    RecipeCLI(grpo, PromptData, args=["fit", "--data.task.reward=mine.my_reward", *small, *held_out])
    assert (tmp_path / "scored").exists()
