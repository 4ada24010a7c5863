"""`Composition`: the parts of an algorithm in named slots, and whether they fit together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import KLReward, Regularizer

Part = AdvantageEstimator | Whiten | Gate | PolicyObjective | Aggregator | Regularizer | KLReward


@dataclass(frozen=True)
class Composition:
    """What the policy learns from: one part in every slot, None where a slot is empty.

    Args:
        advantage: From rewards and values to advantages.
        objective: From advantages to a loss a token or a response.
        aggregator: From losses to a scalar.
        whitening: Normalizes the advantages of the whole rollout batch, before any gate.
        gate: Tokens from which the objective learns; None: all.
        regularizers: Penalties beside the objective, by slot name; None where a slot is empty.
        kl_reward: Divergence from the reference, in the reward.
    """

    advantage: AdvantageEstimator
    objective: PolicyObjective
    aggregator: Aggregator
    whitening: Whiten | None
    gate: Gate | None
    regularizers: Mapping[str, Regularizer | None]
    kl_reward: KLReward | None

    def active_regularizers(self) -> dict[str, Regularizer]:
        """Those that are there, by slot name."""
        return {slot: part for slot, part in self.regularizers.items() if part is not None}

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Every part that is there, with the name of its slot."""
        slots = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "regularizers"}
        for slot, part in {**slots, **self.regularizers}.items():
            if part is not None:
                yield slot, part
            where = getattr(part, "where", None)
            if where is not None:
                yield f"{slot}.where", where

    def needs(self, field: str) -> bool:
        """Whether some part reads this optional field of the batch."""
        return any(field in getattr(part, "needs", ()) for _, part in self.parts())

    def asks(self, field: str) -> bool:
        """Whether some part reads this field of `PolicyOutput`."""
        return any(field in getattr(part, "asks", ()) for _, part in self.parts())

    def check(self, *, critics: int | None, responses_per_prompt: int) -> None:
        """Raise one line if a part needs what no slot provides, naming the flag and the remedy."""
        for slot, part in self.parts():
            name, needed = type(part).__name__, set(getattr(part, "needs", ()))
            missing = sorted(needed & {"values", "critic_values"}) if critics is None else []
            if missing:
                optional = "gate" in slot or "where" in slot
                raise UsageError(
                    f"{slot}={name} needs {missing[0]}, but there are no critics; set --model.critics=MiniCritics"
                    + (f", or drop it with --model.{slot}=null." if optional else f" or another --model.{slot}.")
                )
            smallest = getattr(part, "smallest_group", 1)
            if responses_per_prompt < smallest:
                raise UsageError(
                    f"{slot}={name} compares responses of one prompt, and responses_per_prompt={responses_per_prompt} "
                    f"leaves nothing to compare; set --model.responses_per_prompt={smallest} or more."
                )
        if self.objective.level == "response" and self.gate is not None:
            raise UsageError(
                f"gate={type(self.gate).__name__} works on tokens, but {type(self.objective).__name__} has one loss a "
                "response; set --model.gate=null or a token-level objective."
            )

    def with_advantages(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with `advantages` (whitened where asked) and, from estimators that give them, `returns`."""
        estimate = self.advantage(batch)
        advantages = estimate.advantages if self.whitening is None else self.whitening(estimate.advantages, batch)
        return batch.replace(advantages=advantages, returns=estimate.returns)

    def with_gates(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with `gates`: the objective's, then one a regularizer. All percentiles are of this whole batch."""
        chosen = [self.gate, *(part.where for part in self.active_regularizers().values())]
        return batch.replace(gates=torch.stack([batch.response_mask if g is None else g(batch) for g in chosen]))
