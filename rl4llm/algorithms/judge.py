"""Judging: the gathered rollout batch gets log-probs, values, advantages and gates, before any weight moves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.truncation import bootstrapped, spared, with_end_values, without_truncated
from rl4llm.batch import RolloutBatch
from rl4llm.borders import (
    NotFiniteError,
    checked_advantages,
    checked_gate,
    checked_rewards,
    checked_values,
    checked_weights,
    checked_whitened,
)
from rl4llm.critics import ValueContext, ValueSource

BatchFunction = Callable[[RolloutBatch], RolloutBatch]


@dataclass(frozen=True)
class Passes:
    """Forward passes without gradient over the whole batch, shared out over the ranks.

    Args:
        policy: `policy(rows)` gives the log-probs of the present policy.
        reference: `reference(rows, field)` gives a field of the frozen reference's output.
        version: Which weights the policy has.
        before_update: Whether `old_log_probs` are needed before the update's own passes.
        compare: `compare(rows, log_probs)` is given the fresh rows and the policy's log-probs of them, where the engine
            is to be compared with the trainer; None where it is not.
    """

    policy: Callable[[RolloutBatch], Tensor]
    reference: Callable[[RolloutBatch, str], Tensor]
    version: int
    before_update: bool
    compare: Callable[[RolloutBatch, Tensor], None] | None = None


def judge(
    batch: RolloutBatch,
    composition: Composition,
    passes: Passes,
    critics: ValueSource | None = None,
    context: ValueContext | None = None,
    *,
    learn: Callable[[RolloutBatch], None] | None = None,
) -> RolloutBatch:
    """Return the batch with all that the losses read: log-probs, charges, values, advantages and gates.

    Everything is computed on the whole batch, so that no statistic depends on how rows are shared out; gates see the
    whitened advantages.

    Args:
        batch: The gathered batch.
        composition: The parts.
        passes: Forward passes of policy and reference.
        critics: The value source, if there is one.
        context: What the value source asks of the loop.
        learn: Called with the judged batch before values and advantages are computed once more; for critics that learn
            before their values are read.

    Raises:
        NotFiniteError: If a model or a part gives numbers that are not finite at trained tokens.
    """
    bootstrap = composition.credit.truncation == "bootstrap"
    batch = without_truncated(batch) if composition.credit.truncation == "drop" else batch
    batch = with_rewards(with_log_probs(batch, composition, passes), composition)
    batch = with_advantages(with_values(batch, critics, context, bootstrap=bootstrap), composition)
    if learn is not None:
        learn(batch)
        batch = with_advantages(with_values(batch, critics, context, bootstrap=bootstrap), composition)
    return with_gates(batch, composition)


@torch.no_grad()
def with_log_probs(batch: RolloutBatch, composition: Composition, passes: Passes) -> RolloutBatch:
    """Return the batch with `old_log_probs` of its on-policy rows and what the parts read of the reference.

    Rows that the present weights drew get the trainer's log-probs; rows of an older version keep theirs. None is
    computed that nothing reads before the update: the update's first pass gives them for rows that are still on-policy.
    """
    if passes.before_update or passes.compare is not None:
        batch = _with_policy_pass(batch, passes)
    if composition.refers:
        ref = passes.reference(batch, "log_probs")
        _check_finite("reference", "log-probs", ref, batch.response_mask)
        batch = batch.replace(ref_log_probs=ref)
    if composition.reads("ref_logsumexp"):
        batch = batch.replace(ref_logsumexp=passes.reference(batch, "logsumexp"))
    return batch


def _with_policy_pass(batch: RolloutBatch, passes: Passes) -> RolloutBatch:
    """Compare fresh rows with the engine that drew them, and give on-policy rows their `old_log_probs`."""
    present = on_policy(batch, passes.version)
    fresh = torch.ones_like(present) if batch.replayed is None else ~batch.replayed
    asked = present if passes.compare is None else present | fresh
    found = batch.old_log_probs.clone()
    rows = asked.nonzero()[:, 0]
    found[rows] = passes.policy(batch.select(rows)).to(found.dtype)
    _check_finite("policy", "log-probs", found[rows], batch.response_mask[rows])
    if passes.compare is not None:
        own = fresh.nonzero()[:, 0]
        passes.compare(batch.select(own), found[own])
    if not passes.before_update:
        return batch
    return batch.replace(old_log_probs=torch.where(present[:, None], found, batch.old_log_probs))


def on_policy(batch: RolloutBatch, version: int) -> Tensor:
    """Return which rows the weights of this version drew; rows without a version count as fresh unless replayed."""
    if batch.policy_version is not None:
        return batch.policy_version == version
    return ~batch.replayed if batch.replayed is not None else torch.ones_like(batch.truncated)


def with_rewards(batch: RolloutBatch, composition: Composition) -> RolloutBatch:
    """Return the batch with what is charged in the reward: length, then divergence from the reference."""
    for shaping in (composition.credit.length_penalty, composition.credit.kl_reward):
        if shaping is not None:
            batch = batch.replace(rewards=checked_rewards(shaping, batch))
    return batch


@torch.no_grad()
def with_values(
    batch: RolloutBatch, critics: ValueSource | None, context: ValueContext | None, *, bootstrap: bool = False
) -> RolloutBatch:
    """Return the batch with the values of the value source, if there is one, and on request those at cuts."""
    if critics is None:
        return batch
    assert context is not None
    valued = critics.values(batch, context)
    for index, values in enumerate(valued.critic_values if valued.critic_values is not None else ()):
        _check_finite(f"critic_{index}", "values", values, valued.response_mask)
    valued = checked_values(type(critics).__name__, valued)
    return with_end_values(valued, critics, context) if bootstrap else valued


def with_advantages(batch: RolloutBatch, composition: Composition) -> RolloutBatch:
    """Return the batch with `advantages` (whitened and corrected where asked) and what `returns` the estimator has."""
    credit = composition.credit
    if credit.advantage is None:
        return batch
    gamma = getattr(credit.advantage, "gamma", 1.0)
    estimate = checked_advantages(credit.advantage, bootstrapped(batch, gamma))
    advantages = estimate.advantages
    if credit.whitening is not None:
        advantages = checked_whitened(credit.whitening, advantages, batch)
    if credit.correction is not None:
        advantages = advantages * checked_weights(credit.correction, batch)
    return batch.replace(advantages=advantages, returns=estimate.returns)


def with_gates(batch: RolloutBatch, composition: Composition) -> RolloutBatch:
    """Return the batch with `gates` and what is `counted`: the objective's, then those of each regularizer.

    Percentiles are of the whole batch. What a correction takes out of the objective's divisor is not counted.
    """
    chosen = composition.loss.gates()
    kept = [batch.response_mask if gate is None else checked_gate(gate, batch) for gate in chosen]
    counted = [batch.response_mask if gate is None else gate.counted(batch) for gate in chosen]
    return _gated(batch, torch.stack(kept), torch.stack(counted), composition)


@torch.no_grad()
def with_moving_gates(rows: RolloutBatch, composition: Composition, present: Tensor) -> RolloutBatch:
    """Return the rows of an optimizer step with those gates evaluated anew that depend on the policy as it moves.

    Args:
        rows: A judged minibatch, the same on every rank.
        composition: The parts.
        present: Log-probs of the present policy.
    """
    gates, counted = (tensor.clone() for tensor in rows.require("gates", "counted", by="with_moving_gates"))
    rows = rows.replace(present_log_probs=present)
    for index, gate in enumerate(composition.loss.gates()):
        if gate is not None and gate.each_step:
            gates[index], counted[index] = checked_gate(gate, rows), gate.counted(rows)
    return _gated(rows, gates, counted, composition)


def _gated(batch: RolloutBatch, gates: Tensor, counted: Tensor, composition: Composition) -> RolloutBatch:
    """The batch with its gates, less what a correction and the choice of truncation take out."""
    if composition.credit.correction is not None:
        counted = torch.cat([counted[:1] & composition.credit.correction.counted(batch), counted[1:]])
    if composition.credit.truncation == "actor_only":
        gates, counted = spared(gates, batch), spared(counted, batch)
    return batch.replace(gates=gates, counted=counted)


def _check_finite(part: str, what: str, numbers: Tensor, mask: Tensor) -> None:
    count = int((~numbers.isfinite() & mask).sum())
    if count:
        raise NotFiniteError(part, what, count, "the rollout batch is skipped")
