"""What a trainer of TRL computes with our parts, and which of TRL's settings that leaves in force."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator
from rl4llm.advantages.whiten import Whiten
from rl4llm.borders import checked_advantages, checked_whitened
from rl4llm.bridges.columns import batch_of
from rl4llm.bridges.policy_loss import PolicyLoss, check_reads
from rl4llm.checks import UsageError
from rl4llm.regularizers.kl import KLPenalty

_OF_THE_LOSS = (  # settings of TRL's own loss, which the parts replace
    *("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level", "top_entropy_quantile"),
    *("off_policy_mask_threshold", "entropy_coef", "use_adaptive_entropy"),
)
_OF_THE_ADVANTAGE = ("scale_rewards", "multi_objective_aggregation")
WITH_PARTS = "bridges.trl.with_parts"


@dataclass(frozen=True)
class Parts:
    """What a trainer of TRL computes with our parts.

    Args:
        loss: Objective, aggregator and regularizers.
        advantage: Estimator; None: TRL's own advantages.
        whitening: Whether and how the advantages of the estimator are whitened.
    """

    loss: PolicyLoss = field(default_factory=PolicyLoss)
    advantage: AdvantageEstimator | None = None
    whitening: Whiten | None = None

    def __post_init__(self) -> None:
        self.loss.check(WITH_PARTS, ("advantages", "old_log_probs", "ref_log_probs"), ("entropies",))
        if self.advantage is not None:
            check_reads(WITH_PARTS, self.advantage, ())
        if self.whitening is not None and self.advantage is None:
            raise UsageError(f"{WITH_PARTS}: whitening is of the advantages of our estimators; pass advantage too.")

    def check(self, args: Any) -> None:
        """Raise where `GRPOConfig` holds a setting that would have no effect, or lacks one that a part needs.

        Args:
            args: The configuration.

        Raises:
            UsageError: Naming the setting.
        """
        settings = _OF_THE_LOSS if self.advantage is None else (*_OF_THE_LOSS, *_OF_THE_ADVANTAGE)
        defaults = {one.name: one.default for one in fields(args) if one.name in settings}
        for name, default in defaults.items():
            if getattr(args, name) != default:
                raise UsageError(
                    f"{WITH_PARTS}: GRPOConfig({name}={getattr(args, name)!r}) belongs to what the parts replace and "
                    f"would have no effect; leave it at {default!r} and choose parts instead."
                )
        if args.steps_per_generation % args.gradient_accumulation_steps:
            raise UsageError(
                f"{WITH_PARTS}: steps_per_generation={args.steps_per_generation} is not a multiple of "
                f"gradient_accumulation_steps={args.gradient_accumulation_steps}, so that an optimizer step would mix "
                "two generations; make it one."
            )
        if self._reader is not None and not args.beta:
            raise UsageError(
                f"{WITH_PARTS}: {self._reader} reads ref_log_probs, and TRL loads a reference where beta is not 0 "
                "only; set GRPOConfig(beta=...), whose value is then not used."
            )
        if args.beta and self._reader is None and args.use_bias_correction_kl:
            raise UsageError(
                f"{WITH_PARTS}: beta={args.beta} becomes KLPenalty, which does not multiply its estimate by the ratio; "
                "set GRPOConfig(use_bias_correction_kl=False), or pass a KLPenalty(..., unbiased_gradient=True)."
            )

    @property
    def _reader(self) -> str | None:
        """Name of the part that reads the reference, if there is one."""
        return next((type(part).__name__ for part in self.loss.parts if "ref_log_probs" in part.reads), None)

    def loss_with(self, beta: float) -> PolicyLoss:
        """Return the loss with TRL's own penalty, `beta` times k3, unless a part reads the reference itself."""
        if not beta or self._reader is not None:
            return self.loss
        penalty = KLPenalty(beta, estimator="k3")
        return PolicyLoss(self.loss.objective, self.loss.aggregator, (*self.loss.regularizers, penalty))

    def advantages(self, scores: Tensor, group_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the advantages of a batch of whole groups."""
        assert self.advantage is not None
        batch = batch_of(WITH_PARTS, mask, {"scores": scores, "group_ids": group_ids})
        advantages = checked_advantages(self.advantage, batch).advantages
        return advantages if self.whitening is None else checked_whitened(self.whitening, advantages, batch)
