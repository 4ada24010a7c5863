"""What a run is made of, in groups: how responses are drawn, credited, turned into a loss and learned from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.algorithms.microbatches import Averaging
from rl4llm.algorithms.truncation import TRUNCATIONS, Truncation
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_choice, check_interval
from rl4llm.corrections import Correction
from rl4llm.critics import ValueSpec, explained_variance
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean
from rl4llm.regularizers import KLReward, Regularizer
from rl4llm.replay import ReplaySpec
from rl4llm.rewards import RewardShaping, Scoring
from rl4llm.rollouts import DynamicSampling, EngineSpec, HuggingFaceRollout, Sampling

NO_REGULARIZERS: Mapping[str, Regularizer | None] = MappingProxyType({})


@dataclass(frozen=True)
class Rollout:
    """How responses are drawn and scored.

    Args:
        engine: The rollout engine.
        sampling: Temperature and length limit; the temperature is that of the trainer's log-probs too.
        responses_per_prompt: n, responses per prompt.
        scoring: How the reward is run: worker processes and time limits.
        dynamic_sampling: Draws prompts until enough groups have unequal scores; None takes them as they come.
        replay: Earlier responses beside the fresh ones; None is strictly fresh.
        trust_log_probs: Whether the engine's log-probs are taken as `old_log_probs` instead of being computed again;
            None: those of an engine that samples with the policy's own weights in float32 or wider are.
    """

    engine: EngineSpec = HuggingFaceRollout()
    sampling: Sampling = Sampling()
    responses_per_prompt: int = 8
    scoring: Scoring = Scoring()
    dynamic_sampling: DynamicSampling | None = None
    replay: ReplaySpec | None = None
    trust_log_probs: bool | None = None

    def __post_init__(self) -> None:
        check_at_least("Rollout", 1, responses_per_prompt=self.responses_per_prompt)
        self.sampling.check_trainable()


@dataclass(frozen=True)
class Credit:
    """How scores become advantages.

    Args:
        advantage: From rewards and values to advantages; None for objectives that compare scores themselves.
        critics: Where values come from; None for critic-free methods.
        whitening: Normalizes the advantages of the whole rollout batch, before any gate.
        correction: Weighs the advantages by how far the engine and the trainer disagree.
        length_penalty: Charge on length, in the reward.
        kl_reward: Charge on the divergence from the reference policy, in the reward.
        truncation: What a response counts for that the length limit cut off: "terminal": it ended there, with its
            score; "bootstrap": it would have gone on with the critics' value at the cut; "drop": nothing learns from
            it; "actor_only": the critics do, the policy does not.
    """

    advantage: AdvantageEstimator | None = None
    critics: ValueSpec | None = None
    whitening: Whiten | None = None
    correction: Correction | None = None
    length_penalty: RewardShaping | None = None
    kl_reward: KLReward | None = None
    truncation: Truncation = "terminal"

    def __post_init__(self) -> None:
        check_choice("Credit", TRUNCATIONS, truncation=self.truncation)


@dataclass(frozen=True)
class Loss:
    """How advantages become the policy's loss.

    Args:
        objective: From advantages (or scores) to a loss per token or per response.
        gate: Tokens from which the objective learns; None keeps all of them.
        regularizers: Penalties beside the objective, by slot name; None where a slot is empty.
        aggregator: From losses to a scalar.
        reference_interval: Rollout batches after which the reference becomes the policy as it is; None: never.
    """

    objective: PolicyObjective
    gate: Gate | None = None
    regularizers: Mapping[str, Regularizer | None] = field(default_factory=lambda: NO_REGULARIZERS)
    aggregator: Aggregator = SequenceMean()
    reference_interval: int | None = None

    def __post_init__(self) -> None:
        check_at_least("Loss", 1, reference_interval=self.reference_interval)

    def active_regularizers(self) -> dict[str, Regularizer]:
        """Return the regularizers that are there, by slot name."""
        return {slot: part for slot, part in self.regularizers.items() if part is not None}

    def gates(self) -> list[Gate | None]:
        """Return the gate of the objective, then that of each regularizer; None where all tokens are kept."""
        return [self.gate, *(part.where for part in self.active_regularizers().values())]

    @property
    def moves(self) -> bool:
        """Whether some gate depends on the policy as it moves."""
        return any(gate.each_step for gate in self.gates() if gate is not None)

    def averaging(self) -> Averaging:
        """How the objective and each regularizer become a scalar."""
        own = [part.aggregator or self.aggregator for part in self.active_regularizers().values()]
        return Averaging((self.aggregator, *own), counted=True)


def adamw(parameters: object) -> AdamW:
    """Return the default optimizer of the policy: AdamW at 2e-5 without weight decay."""
    return AdamW(parameters, lr=2e-5, weight_decay=0.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Learning:
    """How a model steps on a rollout batch.

    Args:
        optimizer: From parameters to an optimizer.
        updates: Epochs, minibatches, clip-norm and schedule.
    """

    optimizer: OptimizerCallable = adamw
    updates: Updates = Updates()


@dataclass(frozen=True)
class CriticLearning(Learning):
    """How the critics learn.

    Args:
        first: Train the critics before their values are read, rather than after the policy's update.
        warmup: Rollout batches on which only the critics learn.
        warmup_until: Explained variance of a whole rollout batch at which the warm-up ends before that; None: it lasts.
    """

    first: bool = False
    warmup: int = 0
    warmup_until: float | None = None

    def __post_init__(self) -> None:
        check_at_least("CriticLearning", 0, warmup=self.warmup)
        check_interval("CriticLearning", 0.0, 1.0, "[)", warmup_until=self.warmup_until)
        if self.warmup_until is not None and not self.warmup:
            raise UsageError(
                f"CriticLearning: warmup_until={self.warmup_until} ends a warm-up, but there is none; set its "
                "greatest length in rollout batches, such as --model.critic_warmup=50."
            )

    def ends_warmup(self, batch: RolloutBatch) -> bool:
        """Whether the critics explain as much of a judged batch as was asked of their warm-up."""
        if self.warmup_until is None or batch.values is None or batch.returns is None:
            return False
        return float(explained_variance(batch.values, batch.returns, batch.scored_mask)) >= self.warmup_until


@dataclass(frozen=True)
class Guards:
    """When a run that goes wrong stops.

    Args:
        skipped: Updates in a row that may be skipped because a loss, gradient or value is not finite.
        unscorable: Rollout batches in a row of which no response could be scored.
        engine_gap_warning: Mean distance in nats between the log-probs of an engine with weights of its own and the
            trainer's at which a run warns; None: it never does.
        engine_gap_error: The same at which it stops; None: it never does.
    """

    skipped: int = 5
    unscorable: int = 5
    engine_gap_warning: float | None = 0.05
    engine_gap_error: float | None = 0.3

    def __post_init__(self) -> None:
        gaps = {"engine_gap_warning": self.engine_gap_warning, "engine_gap_error": self.engine_gap_error}
        check_at_least("Guards", 1, skipped=self.skipped, unscorable=self.unscorable)
        check_interval("Guards", 0.0, float("inf"), "()", **gaps)
