"""`Composition`: the parts of an algorithm in named slots, and whether they fit together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.corrections import Correction
from rl4llm.critics import ValueSpec
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import Regularizer
from rl4llm.replay import ReplaySpec
from rl4llm.rewards import RewardShaping
from rl4llm.rollouts import DynamicSampling, RolloutEngine

_FROM_CRITICS = {"values", "critic_values", "segment_ids"}


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What the policy learns from: one part in every slot, None where a slot is empty.

    Args:
        objective: From advantages (or scores) to a loss a token or a response.
        aggregator: From losses to a scalar.
        advantage: From rewards and values to advantages.
        critics: Where values come from.
        whitening: Normalizes the advantages of the whole rollout batch, before any gate.
        correction: Weighs the advantages by how far engine and trainer disagree.
        gate: Tokens from which the objective learns; None: all.
        regularizers: Penalties beside the objective, by slot name; None where a slot is empty.
        kl_reward: Divergence from the reference, in the reward.
        length_penalty: Length, in the reward.
        dynamic_sampling: Which groups are kept at all.
        replay: Earlier responses beside the fresh ones.
    """

    objective: PolicyObjective
    aggregator: Aggregator
    advantage: AdvantageEstimator | None = None
    critics: ValueSpec | None = None
    whitening: Whiten | None = None
    correction: Correction | None = None
    gate: Gate | None = None
    regularizers: Mapping[str, Regularizer | None] = field(default_factory=dict)
    kl_reward: RewardShaping | None = None
    length_penalty: RewardShaping | None = None
    dynamic_sampling: DynamicSampling | None = None
    replay: ReplaySpec | None = None

    def active_regularizers(self) -> dict[str, Regularizer]:
        """Those that are there, by slot name."""
        return {slot: part for slot, part in self.regularizers.items() if part is not None}

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Every part that is there, with the name of its slot."""
        slots = {slot.name: getattr(self, slot.name) for slot in fields(self) if slot.name != "regularizers"}
        for slot, part in {**slots, **self.regularizers}.items():
            if part is not None:
                yield slot, part
            where = getattr(part, "where", None)
            if where is not None:
                yield f"{slot}.where", where

    def needs(self, name: str) -> bool:
        """Whether some part reads this field of the batch."""
        return any(name in getattr(part, "needs", ()) for _, part in self.parts())

    def asks(self) -> frozenset[str]:
        """Every field of `PolicyOutput` beyond the log-probs that some part reads."""
        return frozenset(name for _, part in self.parts() for name in getattr(part, "asks", ()))

    def check(self, *, responses_per_prompt: int, engine: RolloutEngine) -> None:
        """Raise one line if a part needs what no slot provides, naming the flag and the remedy."""
        for slot, part in self.parts():
            self._check_values(slot, part)
            self._check_group(slot, part, responses_per_prompt)
            if "top_log_probs" in getattr(part, "needs", ()) and not engine.top_log_probs:
                raise UsageError(
                    f"{slot}={type(part).__name__} compares the likeliest tokens, and the engine "
                    f"{type(engine).__name__} tells none; set --model.engine.top_log_probs=20 or a binary divergence."
                )
        if self.objective.level == "response" and self.gate is not None:
            raise UsageError(
                f"gate={type(self.gate).__name__} works on tokens, but {type(self.objective).__name__} has one loss a "
                "response; set --model.gate=null or a token-level objective."
            )

    def _check_values(self, slot: str, part: Any) -> None:
        name, needed = type(part).__name__, set(getattr(part, "needs", ()))
        missing = sorted(needed & _FROM_CRITICS) if self.critics is None else []
        if missing:
            optional = "gate" in slot or "where" in slot
            raise UsageError(
                f"{slot}={name} needs {missing[0]}, but there are no critics; set --model.critics=MiniCritics"
                + (f", or drop it with --model.{slot}=null." if optional else f" or another --model.{slot}.")
            )
        if "values" in getattr(part, "asks", ()) and not getattr(self.critics, "shares_trunk", False):
            raise UsageError(
                f"{slot}={name} trains a value head on the policy itself, and there is none; "
                "set --model.critics=TrunkCritic."
            )
        if "advantages" in needed and self.advantage is None:
            raise UsageError(f"{slot}={name} needs advantages, but no estimator gives them; set --model.advantage.")

    def _check_group(self, slot: str, part: Any, responses_per_prompt: int) -> None:
        smallest = getattr(part, "smallest_group", 1)
        if responses_per_prompt < smallest:
            raise UsageError(
                f"{slot}={type(part).__name__} compares responses of one prompt, and responses_per_prompt="
                f"{responses_per_prompt} leaves nothing to compare; "
                f"set --model.responses_per_prompt={smallest} or more."
            )

    def with_rewards(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with what is charged in the reward."""
        for shaping in (self.length_penalty, self.kl_reward):
            batch = batch if shaping is None else batch.replace(rewards=shaping(batch))
        return batch

    def with_advantages(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with `advantages` (whitened and corrected where asked) and what `returns` the estimator has."""
        if self.advantage is None:
            return batch
        estimate = self.advantage(batch)
        advantages = estimate.advantages if self.whitening is None else self.whitening(estimate.advantages, batch)
        if self.correction is not None:
            advantages = advantages * self.correction(batch)
        return batch.replace(advantages=advantages, returns=estimate.returns)

    def with_gates(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with `gates`: the objective's, then one a regularizer. All percentiles are of this whole batch."""
        chosen = [self.gate, *(part.where for part in self.active_regularizers().values())]
        return batch.replace(gates=torch.stack([batch.response_mask if g is None else g(batch) for g in chosen]))
