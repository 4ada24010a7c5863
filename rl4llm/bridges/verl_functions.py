"""Our estimators and objectives as functions with the arguments that verl gives them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator
from rl4llm.advantages.whiten import Whiten
from rl4llm.batch import PolicyOutput
from rl4llm.borders import checked_advantages, checked_whitened
from rl4llm.bridges.columns import batch_of, group_numbers, inside, truth
from rl4llm.bridges.policy_loss import PolicyLoss
from rl4llm.checks import UsageError
from rl4llm.kl import kl_k1
from rl4llm.masked import masked_mean
from rl4llm.objectives.aggregate import ConstantNorm, SequenceMean, SequenceSum, TokenMean
from rl4llm.objectives.base import Aggregator, PolicyObjective


@dataclass(frozen=True)
class Advantage:
    """An estimator as verl calls it: `(token_level_rewards, response_mask, index, ...) -> (advantages, returns)`.

    Args:
        estimator: Our estimator.
        whitening: Whether and how its advantages are whitened.
    """

    estimator: AdvantageEstimator
    whitening: Whiten | None = None

    def __call__(
        self,
        token_level_rewards: Float[Tensor, "batch time"],
        response_mask: Tensor,
        index: Iterable[Any] | None = None,
        values: Tensor | None = None,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
        """Return advantages and value targets.

        Args:
            token_level_rewards: Rewards of tokens.
            response_mask: 1 at trained tokens.
            index: Name of the group of each response; needed by estimators that compare the responses of a group.
            values: Values, for estimators that read them.
            options: Whatever else verl passes; it is not read.

        Returns:
            The advantages, and the value targets or, from an estimator without any, the advantages again.

        Raises:
            UsageError: If the estimator compares groups and `index` is None, or a shape is wrong.
        """
        by = f"bridges.verl.Advantage({type(self.estimator).__name__})"
        mask = truth(response_mask)
        rewards, scores = inside(token_level_rewards, mask)
        columns: dict[str, Tensor | None] = {"rewards": rewards, "scores": scores, "values": values}
        if index is not None:
            columns["group_ids"] = group_numbers(index, mask.device)
        elif self.estimator.compares == "group":
            raise UsageError(f"{by}: index is None; pass verl's `uid`, one name per response.")
        batch = batch_of(by, mask, columns)
        advantages, returns = checked_advantages(self.estimator, batch)
        if self.whitening is not None:
            advantages = checked_whitened(self.whitening, advantages, batch)
        return advantages, advantages if returns is None else returns


@dataclass(frozen=True)
class Loss:
    """An objective as verl calls it: `(old_log_prob, log_prob, advantages, response_mask, ...) -> (loss, metrics)`.

    Args:
        objective: Our objective.
        aggregator: How the losses become one number; None: as verl's `loss_agg_mode` says.
    """

    objective: PolicyObjective
    aggregator: Aggregator | None = None

    def __post_init__(self) -> None:
        loss = PolicyLoss(self.objective)
        loss.check("bridges.verl.Loss", ("advantages", "old_log_probs"), ())
        if loss.reads_rollout_log_probs:
            raise UsageError(
                f"bridges.verl.Loss: {type(self.objective).__name__} compares with the log-probs of the sampling "
                "engine, which verl does not pass to policy losses; choose an objective anchored on old_log_probs and "
                "set algorithm.rollout_correction.bypass_mode=True, which makes these the engine's."
            )

    def __call__(
        self,
        old_log_prob: Float[Tensor, "batch time"],
        log_prob: Float[Tensor, "batch time"],
        advantages: Float[Tensor, "batch time"],
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Float[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Return the loss of a microbatch and what verl logs beside it.

        Args:
            old_log_prob: log π_old(yₜ).
            log_prob: log π_θ(yₜ), with gradient.
            advantages: Aₜ.
            response_mask: 1 at trained tokens.
            loss_agg_mode: verl's name of an aggregator; read where `aggregator` is None.
            config: verl's `ActorConfig`, whose `global_batch_info` holds the counts of the whole step.
            rollout_is_weights: Weights of verl's rollout correction, which multiply the advantages.

        Returns:
            The loss, and `actor/ppo_kl`.

        Raises:
            UsageError: If the aggregation mode is unknown, or a shape is wrong.
        """
        by, mask = "bridges.verl.Loss", truth(response_mask)
        credit = advantages if rollout_is_weights is None else advantages * rollout_is_weights
        batch = batch_of(by, mask, {"advantages": credit, "old_log_probs": old_log_prob})
        info: Mapping[str, Any] = getattr(config, "global_batch_info", None) or {}
        width = info.get("loss_scale_factor") or mask.shape[1]
        loss = PolicyLoss(self.objective, self.aggregator or aggregator(loss_agg_mode, width=width))
        normalizer = _normalizer(by, loss, loss_agg_mode if self.aggregator is None else "", info)
        total = loss(PolicyOutput(log_prob), batch, normalizer) * info.get("dp_size", 1)
        divergence = masked_mean(kl_k1(old_log_prob, log_prob.detach(), mask), mask)
        return total, {"actor/ppo_kl": divergence.item()}


def aggregator(loss_agg_mode: str, *, width: int) -> Aggregator:
    """Return the aggregator that verl's `loss_agg_mode` names.

    Args:
        loss_agg_mode: "token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum" or
            "seq-mean-token-sum-norm". "token-sum" is the mean over tokens with a divisor of 1.
        width: verl's `loss_scale_factor` or, where it is None, the width of its tensors.

    Returns:
        The aggregator.

    Raises:
        UsageError: If the name is unknown.

    Example:
        >>> aggregator("seq-mean-token-sum-norm", width=512)
        ConstantNorm(max_tokens=512)
    """
    known: dict[str, Aggregator] = {
        "token-mean": TokenMean(),
        "token-sum": TokenMean(),
        "seq-mean-token-mean": SequenceMean(),
        "seq-mean-token-sum": SequenceSum(),
    }
    if loss_agg_mode == "seq-mean-token-sum-norm":
        return ConstantNorm(max_tokens=width)
    if loss_agg_mode not in known:
        names = ", ".join([*known, "seq-mean-token-sum-norm"])
        raise UsageError(f"bridges.verl.aggregator: unknown loss_agg_mode {loss_agg_mode!r}; use one of {names}.")
    return known[loss_agg_mode]


def _normalizer(by: str, loss: PolicyLoss, mode: str, info: Mapping[str, Any]) -> list[Any] | None:
    """The count of the whole optimizer step that verl passes, or None."""
    if mode == "token-sum":
        return [1]
    of_tokens = isinstance(loss.aggregator, TokenMean) and loss.objective.level == "token"
    count = info.get("batch_num_tokens" if of_tokens else "global_batch_size")
    if count is not None and not isinstance(loss.aggregator, TokenMean | SequenceMean | SequenceSum | ConstantNorm):
        raise UsageError(
            f"{by}: verl counts tokens and responses of a step, and {type(loss.aggregator).__name__} counts something "
            "else; use an aggregator of rl4llm.objectives."
        )
    if count is None and info.get("dp_size", 1) > 1:
        raise UsageError(
            f"{by}: dp_size is {info['dp_size']}, and global_batch_info has no count of the whole step; fill it in as "
            "verl's ppo_loss does."
        )
    return None if count is None else [count]
