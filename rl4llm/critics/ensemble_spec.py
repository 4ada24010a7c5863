"""`EnsembleSpec`: base class of the frozen choices that build a `CriticEnsemble` of several critics."""

from abc import abstractmethod

from rl4llm.checks import UsageError, check_at_least, check_choice, check_interval
from rl4llm.critic_values import critic_first, critic_mean, critic_min
from rl4llm.critics.base import ValueSpec
from rl4llm.critics.ensemble import CriticEnsemble
from rl4llm.critics.heads import Head
from rl4llm.critics.losses import ValueLoss
from rl4llm.critics.shards import group_shards, prompt_shards, random_shards, shared_shards
from rl4llm.critics.value_model import INPUTS, Inputs, ValueModel
from rl4llm.models import ModelSource, Policy, check_compatible
from rl4llm.models.sources import describe

EMBEDDED_CRITIC = "rl4llm/digits-critic"
_SHARDS = {"group": group_shards, "prompt": prompt_shards, "random": random_shards, "shared": shared_shards}
_AGGREGATES = {"mean": critic_mean, "min": critic_min, "first": critic_first}


class EnsembleSpec(ValueSpec):
    """Base class of the specs of several critics: what they are trained on, and how their values are combined.

    Attributes:
        size: M, how many critics.
        shards: Which critic learns from which response.
        aggregate: From the critics' values to the estimator's.
        head: How a critic's outputs say a value.
        loss: Value loss of one token, on the values; None for the head's own.
        inputs: What a critic reads: "prefix" or "prompt".
        head_scale: Scale of the new heads' weights.
    """

    size: int
    shards: str
    aggregate: str
    head: Head
    loss: ValueLoss | None
    inputs: Inputs
    head_scale: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_at_least(name, 1, size=self.size)
        check_choice(name, _SHARDS, shards=self.shards)
        check_choice(name, _AGGREGATES, aggregate=self.aggregate)
        check_choice(name, INPUTS, inputs=self.inputs)
        check_interval(name, 0.0, float("inf"), "[)", head_scale=self.head_scale)

    @property
    def spreads_returns(self) -> bool:  # type: ignore[override]
        """Whether the head predicts it."""
        return self.head.spreads

    def check(self, source: ModelSource, responses_per_prompt: int) -> None:
        """Raise if a prompt has too few responses, or the critics' model does not fit the policy."""
        if self.shards == "group" and responses_per_prompt < self.size:
            raise UsageError(
                f"{type(self).__name__}: more critics (size={self.size}) than responses per prompt "
                f"({responses_per_prompt}), so some critic learns nothing; raise responses_per_prompt, lower size, or "
                "set shards=prompt or shared."
            )
        self.check_base(source)

    @abstractmethod
    def check_base(self, source: ModelSource) -> None:
        """Raise, before any weight is loaded, if the critics' model is missing or reads other ids than the policy's."""

    @abstractmethod
    def critics(self, policy: Policy | None) -> list[ValueModel]:
        """Return new critics.

        Args:
            policy: The policy, for critics that share its weights.
        """

    def build(self, source: ModelSource, policy: Policy | None = None) -> CriticEnsemble:
        """Return the critics side by side."""
        shards, aggregate = _SHARDS[self.shards], _AGGREGATES[self.aggregate]
        return CriticEnsemble(self.critics(policy), shards=shards, aggregate=aggregate, loss=self.loss)


def check_readable(source: ModelSource, model: ModelSource) -> None:
    """Raise if the critics cannot read what the policy writes; a default that was left as it is is named as such."""
    try:
        check_compatible(source, model)
    except UsageError as error:
        if model != EMBEDDED_CRITIC:
            raise
        raise UsageError(
            f"the critics' base is the embedded '{EMBEDDED_CRITIC}' by default, and it cannot read what the policy, "
            f"{describe(source)}, writes; set --model.critics.model to a model with the policy's tokenizer, for "
            "example a smaller one of the same family."
        ) from error
