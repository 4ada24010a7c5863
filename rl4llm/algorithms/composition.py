"""`Composition`: the parts of an algorithm in named slots, and whether they fit together."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from rl4llm.algorithms.choices import Credit, Loss, Rollout
from rl4llm.checks import UsageError
from rl4llm.parts import Part
from rl4llm.regularizers import Constrained

_FROM_CRITICS = {"values", "critic_values", "return_spread", "segment_ids"}
_SLOTS = {
    Rollout: ("dynamic_sampling", "replay"),
    Credit: ("length_penalty", "kl_reward", "critics", "advantage", "whitening", "correction"),
    Loss: ("gate", "objective", "regularizers", "aggregator"),
}


@dataclass(frozen=True)
class Composition:
    """What a policy learns from: the parts of three groups, seen as one algorithm.

    Args:
        rollout: How responses are drawn.
        credit: From scores to advantages.
        loss: From advantages to a scalar.
    """

    rollout: Rollout
    credit: Credit
    loss: Loss

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield every part that is there with the name of its slot, in the order of the data flow."""
        for group in (getattr(self, field.name) for field in fields(self)):
            for slot in _SLOTS[type(group)]:
                found = self.loss.active_regularizers() if slot == "regularizers" else {slot: getattr(group, slot)}
                for name, part in found.items():
                    if part is not None:
                        yield name, part
                    if slot == "regularizers" and part.where is not None:
                        yield f"{name}.where", part.where

    def _declared(self) -> Iterator[tuple[str, Part]]:
        return ((slot, part) for slot, part in self.parts() if isinstance(part, Part))

    def reads(self, name: str) -> bool:
        """Return whether some part reads this field of the batch."""
        return any(name in part.reads for _, part in self._declared())

    def asks(self) -> frozenset[str]:
        """Return every field of `PolicyOutput` beyond the log-probs that some part reads."""
        return frozenset(name for _, part in self._declared() for name in part.asks)

    def constrained(self) -> dict[str, Constrained]:
        """Return the regularizers whose weight is adapted, by slot name."""
        found = self.loss.active_regularizers().items()
        return {slot: part for slot, part in found if isinstance(part, Constrained)}

    @property
    def anchored(self) -> bool:
        """Whether some part compares the policy with `old_log_probs`."""
        return any(part.anchored for _, part in self._declared())

    @property
    def refers(self) -> bool:
        """Whether some part compares with the frozen reference policy."""
        return self.reads("ref_log_probs") or self.reads("ref_logsumexp")

    def check(self) -> None:
        """Raise one line if a part needs what no slot provides, naming the flag and the remedy."""
        for slot, part in self._declared():
            self._check_values(slot, part)
            self._check_group(slot, part)
            engine = self.rollout.engine
            if "top_log_probs" in part.reads and not engine.top_log_probs:
                raise UsageError(
                    f"{slot}={type(part).__name__} compares the likeliest tokens, but the engine "
                    f"{type(engine).__name__} does not report them; set "
                    "--model.engine.top_log_probs=20 or a binary divergence."
                )
        correction, objective = self.credit.correction, self.loss.objective
        if correction is not None and "advantages" not in objective.reads:
            raise UsageError(
                f"correction={type(correction).__name__} weights the advantages, but "
                f"objective={type(objective).__name__} does not read them; set --model.correction=null or an objective "
                "that reads advantages."
            )
        if self.loss.objective.level == "response" and self.loss.gate is not None:
            raise UsageError(
                f"gate={type(self.loss.gate).__name__} works on tokens, but {type(self.loss.objective).__name__} has "
                "one loss per response; set --model.gate=null or a token-level objective."
            )
        self._check_replay()
        self._check_bootstrap()
        if self.rollout.trust_log_probs and self.credit.correction is not None:
            raise UsageError(
                f"correction={type(self.credit.correction).__name__} compares the trainer's log-probs with the "
                "engine's, but trust_rollout_log_probs=true computes none; set one of the two to false or null."
            )

    def _check_bootstrap(self) -> None:
        credit = self.credit
        if credit.truncation != "bootstrap":
            if credit.critics is not None and credit.critics.judges_cuts:
                raise UsageError(
                    f"critics={type(credit.critics).__name__} decides which values at cuts are used, but "
                    f"truncation={credit.truncation} uses none; set --model.truncation=bootstrap or "
                    "--model.critics=MiniCritics."
                )
            return
        if credit.critics is None or not credit.critics.values_states:
            raise UsageError(
                "truncation=bootstrap needs the critics' value at the cut, but no critics provide one; set "
                "--model.critics=MiniCritics or another --model.truncation."
            )
        if not hasattr(credit.advantage, "gamma") or "values" not in getattr(credit.advantage, "reads", ()):
            raise UsageError(
                f"truncation=bootstrap changes the last reward, but advantage={type(credit.advantage).__name__} "
                "does not bootstrap from values; set --model.advantage=GAE or another --model.truncation."
            )

    def _check_replay(self) -> None:
        replay, critics = self.rollout.replay, self.credit.critics
        if replay is None:
            return
        name = type(replay).__name__
        if self.loss.objective.on_policy_only:
            raise UsageError(
                f"replay={name} brings responses of earlier policies, but objective="
                f"{type(self.loss.objective).__name__} has no importance ratio to correct for that; set "
                "--model.replay=null or another --model.objective, for example ImportanceWeighted."
            )
        if critics is not None and critics.needs_prompts:
            raise UsageError(
                f"critics={type(critics).__name__} needs the prompts of a batch, but those of replay={name} are no "
                "longer available; set --model.replay=null or other --model.critics."
            )

    def _check_values(self, slot: str, part: Part) -> None:
        name, critics = type(part).__name__, self.credit.critics
        missing = sorted(_FROM_CRITICS.intersection(part.reads)) if critics is None else []
        if missing:
            optional = "gate" in slot or "where" in slot
            raise UsageError(
                f"{slot}={name} needs {missing[0]}, but there are no critics; set --model.critics=MiniCritics"
                + (f", or remove it with --model.{slot}=null." if optional else f" or another --model.{slot}.")
            )
        if "return_spread" in part.reads and critics is not None and not critics.spreads_returns:
            raise UsageError(
                f"{slot}={name} reads the spread of the return, but critics={type(critics).__name__} does not "
                "predict it; use MiniCritics with --model.critics.head=QuantileHead, HistogramHead or SigmoidHead."
            )
        if "values" in part.asks and not (critics is not None and critics.shares_trunk):
            raise UsageError(
                f"{slot}={name} trains a value head on the policy itself, but the policy has none; "
                "set --model.critics=TrunkCritic."
            )
        if "advantages" in part.reads and self.credit.advantage is None:
            raise UsageError(f"{slot}={name} needs advantages, but no estimator provides them; set --model.advantage.")

    def _check_group(self, slot: str, part: Part) -> None:
        smallest, n = getattr(part, "smallest_group", 1), self.rollout.responses_per_prompt
        if n < smallest:
            raise UsageError(
                f"{slot}={type(part).__name__} compares responses to one prompt, but responses_per_prompt={n} leaves "
                f"nothing to compare; set --model.responses_per_prompt={smallest} or more."
            )
