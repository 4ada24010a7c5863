"""`MiniCritics` and `SymmetricCritic`: frozen choices of critics, built when a run starts."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from rl4llm.checks import check_choice, check_interval
from rl4llm.critic_values import critic_mean
from rl4llm.critics.base import ValueSpec
from rl4llm.critics.ensemble import CriticEnsemble
from rl4llm.critics.ensemble_spec import EMBEDDED_CRITIC, EnsembleSpec, check_readable
from rl4llm.critics.heads import Head, LinearHead
from rl4llm.critics.losses import ValueLoss
from rl4llm.critics.shards import shared_shards
from rl4llm.critics.value_model import INPUTS, Inputs, ValueModel
from rl4llm.models import ModelSource, Policy, Pretrained, check_context, check_model


@dataclass(frozen=True)
class MiniCritics(EnsembleSpec):
    """Several critics, usually much smaller than the policy (AsyPPO, arXiv:2510.01656).

    Args:
        model: The critics' base: a hub name, a folder, an embedded model, or a `Pretrained`; from Python a model object
            too. Each critic gets its own new value head.
        size: M, how many critics.
        shards: What each learns from: its part of every prompt's responses ("group"), whole prompts ("prompt"), a part
            of the batch at random ("random"), or all of it ("shared").
        aggregate: The estimator's value: "mean" or "min" over critics, or that of the "first" alone.
        head: How a critic's outputs say a value.
        loss: Value loss of one token, on the values; None for the head's own.
        inputs: What a critic reads: the prompt and the response so far ("prefix"), or the prompt alone ("prompt"), with
            one value for all tokens of a response and one term of the loss per response.
        head_scale: Scale of the new heads' weights; 0 starts all values at the head's middle.
        seed: Of the heads.
    """

    model: "str | Pretrained" = EMBEDDED_CRITIC  # a string, so that no type checker refuses an object
    size: int = 2
    shards: Literal["group", "prompt", "random", "shared"] = "group"
    aggregate: Literal["mean", "min", "first"] = "mean"
    head: Head = LinearHead()
    loss: ValueLoss | None = None
    inputs: Inputs = "prefix"
    head_scale: float = 0.1
    seed: int = 0

    def check_base(self, source: ModelSource) -> None:
        """Raise if the model is missing or reads other ids than the policy's."""
        if self.model != source:
            check_model(self.model)
            check_readable(source, self.model)

    def check_context(self, tokens: int) -> None:
        """Raise if prompts with their responses, where both are read, may be longer than the critics' context."""
        if self.inputs == "prefix":
            check_context(self.model, tokens, "critics' base")

    def critics(self, policy: Policy | None) -> list[ValueModel]:
        """Return critics with the same base weights and different heads."""
        heads = range(self.seed, self.seed + self.size)
        load = partial(ValueModel.load, self.model, self.head, inputs=self.inputs, head_scale=self.head_scale)
        return [load(seed=seed) for seed in heads]


@dataclass(frozen=True)
class SymmetricCritic(ValueSpec):
    """One critic as large as the policy: classic PPO.

    Args:
        head: How the critic's outputs say a value.
        loss: Value loss of one token, on the values; None for the head's own.
        inputs: What it reads: the prompt and the response so far ("prefix"), or the prompt alone ("prompt"), with one
            value for all tokens of a response and one term of the loss per response.
        head_scale: Scale of the new head's weights; 0 starts all values at the head's middle.
        seed: Of the head.
    """

    head: Head = LinearHead()
    loss: ValueLoss | None = None
    inputs: Inputs = "prefix"
    head_scale: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("SymmetricCritic", INPUTS, inputs=self.inputs)
        check_interval("SymmetricCritic", 0.0, float("inf"), "[)", head_scale=self.head_scale)

    @property
    def spreads_returns(self) -> bool:  # type: ignore[override]
        """Whether the head predicts it."""
        return self.head.spreads

    def check(self, source: ModelSource, responses_per_prompt: int) -> None:
        """No-op: the critic uses the policy's own model, so there is nothing to check."""

    def build(self, source: ModelSource, policy: Policy | None = None) -> CriticEnsemble:
        """Build one critic from the policy's base weights."""
        load = partial(ValueModel.load, source, self.head, inputs=self.inputs)
        critic = load(head_scale=self.head_scale, seed=self.seed)
        return CriticEnsemble([critic], shards=shared_shards, aggregate=critic_mean, loss=self.loss)
