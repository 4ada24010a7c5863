"""Judging a rollout batch before the update: log-probs, values, advantages, and what a value source is lent for it."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.microbatches import map_microbatches
from rl4llm.batch import RolloutBatch
from rl4llm.critics import ValueContext
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts import decode_pieces

if TYPE_CHECKING:
    from rl4llm.algorithms.policy_gradient import PolicyGradient


@torch.no_grad()
def with_log_probs(loop: "PolicyGradient", batch: RolloutBatch) -> RolloutBatch:
    """The batch with `old_log_probs` of its fresh rows (replayed ones have theirs) and those of the reference for all.

    None is computed that nothing reads: with one strictly on-policy step, the update's own pass gives the old ones.
    """
    composition, reference = loop.composition, loop.reference
    read = loop.updates.steps > 1 or composition.needs("old_log_probs") or composition.kl_reward is not None
    if read and not loop.trust_rollout_log_probs:
        fresh = batch if batch.replayed is None else batch.select(~batch.replayed)
        old = batch.old_log_probs.clone()
        old[: len(fresh)] = _map(loop, fresh, loop.policy)
        batch = batch.replace(old_log_probs=old)
    if reference is not None:
        batch = batch.replace(ref_log_probs=_map(loop, batch, reference))
    if reference is not None and composition.needs("ref_logsumexp"):
        batch = batch.replace(ref_logsumexp=_map(loop, batch, reference, "logsumexp"))
    return batch


def with_values(loop: "PolicyGradient", batch: RolloutBatch, prompts: PromptBatch, meter: Meter) -> RolloutBatch:
    """The batch with values, where there is a source of them, and with advantages."""
    if loop.critics is None:
        return loop.composition.with_advantages(batch)
    context = value_context(loop, prompts, meter)
    batch = loop.composition.with_advantages(loop.critics.values(batch, context))
    if loop.learn_critics_first:
        loop.critics.learn(batch, context)
        batch = loop.composition.with_advantages(loop.critics.values(batch, context))
    return batch


def _map(loop: "PolicyGradient", batch: RolloutBatch, policy: Policy, field: str = "log_probs") -> Tensor:
    """A field of `PolicyOutput` for the whole batch, in microbatches and without grad."""
    asks = () if field == "log_probs" else (field,)

    def read(rows: RolloutBatch) -> Tensor:
        return getattr(policy(rows, temperature=loop.sampling.temperature, asks=asks), field)

    return map_microbatches(read, batch, loop.updates.microbatch_tokens)


def value_context(loop: "PolicyGradient", prompts: PromptBatch, meter: Meter) -> ValueContext:
    """The loop's forward passes, steps and rollouts, for one rollout batch.

    Args:
        loop: The loop.
        prompts: Those that the fresh responses answer.
        meter: Where the losses of critics go.
    """
    assert loop.critics is not None
    learners = loop.critics.learners
    names, policy = list(learners), loop.policy

    def minimize(name: str, rows: RolloutBatch, loss: Any) -> None:
        def losses(piece: RolloutBatch) -> list[Tensor]:
            per_token = loss(piece)
            meter.add(f"{name}/value_loss", per_token, piece.response_mask)
            return [per_token]

        learner = loop.learner(name, 1 + names.index(name), learners[name])
        learner.minimize(loop, rows, losses, meter, counted=loop.warming_up and name == names[-1])

    tokens = loop.critic_updates.microbatch_tokens
    return ValueContext(
        map=lambda f, rows: map_microbatches(f, rows, tokens),
        minimize=minimize,
        log_probs=lambda rows: _map(loop, rows, policy),
        own_values=lambda rows: _map(loop, rows, policy, "values"),
        complete=partial(loop.actor.complete, policy, prompts, loop.generator),
        decode=partial(decode_pieces, policy),
    )
