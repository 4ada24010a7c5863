"""The policy's loss on some rows: objective and regularizers, each under its gate, and what is watched on the way."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.masked import keep
from rl4llm.metrics import approximate_kl, silenced_tokens
from rl4llm.models import Policy
from rl4llm.regularizers import DualVariable


def policy_losses(
    policy: Policy,
    composition: Composition,
    rows: RolloutBatch,
    meter: Meter,
    *,
    temperature: float,
    on_policy: bool,
    duals: Mapping[str, DualVariable] = MappingProxyType({}),
) -> list[Tensor]:
    """Terms of the policy's loss, per token or per response, zero where their gates are False.

    Args:
        policy: The policy being trained.
        composition: Objective and regularizers.
        rows: A microbatch with `gates` and, where the objective needs them, `advantages`.
        meter: Where diagnostics go.
        temperature: At which the responses were sampled.
        on_policy: Whether the policy is still the one that acted, so that this pass gives `old_log_probs` too.
        duals: Weights of regularizers that are adapted, by slot; they see what they weigh.
    """
    (gates,) = rows.require("gates", by="policy_losses")
    output = policy(rows, temperature=temperature, asks=composition.asks())
    if on_policy:
        rows = rows.replace(old_log_probs=_of_the_acting_policy(output.log_probs.detach(), rows))
    objective, gate = composition.objective(output, rows), gates[0]
    terms = [keep(objective, gate) if objective.ndim == 2 else objective]
    for (slot, regularizer), where in zip(composition.active_regularizers().items(), gates[1:], strict=True):
        penalty = regularizer(output, rows)
        meter.add(f"penalty/{slot}", penalty, where)
        if slot in duals:
            duals[slot].observe(penalty, where)
            penalty = penalty * duals[slot].multiplier.to(penalty.dtype)
        terms.append(keep(penalty, where))
    _observe(output.log_probs, objective, rows, gate, meter)
    if any(term.isnan().any() for term in terms):
        raise UsageError(
            "the policy's loss is not a number; lower --model.optimizer.lr, or look for inf in rewards and log-probs."
        )
    return terms


def _of_the_acting_policy(present: Tensor, rows: RolloutBatch) -> Tensor:
    """The present log-probs, except for rows that an earlier policy made."""
    return present if rows.replayed is None else torch.where(rows.replayed[:, None], rows.old_log_probs, present)


def _observe(log_probs: Tensor, objective: Tensor, rows: RolloutBatch, gate: Tensor, meter: Meter) -> None:
    if torch.is_grad_enabled() and rows.advantages is not None:
        silenced = silenced_tokens(objective, log_probs, rows.advantages, rows.response_mask)
        meter.add("policy/clip_share", silenced.float(), gate)
    meter.add("policy/loss", objective, rows.response_mask if objective.ndim == 2 else rows.response_mask.any(-1))
    meter.add(
        "policy/approximate_kl", approximate_kl(log_probs, rows.old_log_probs, rows.response_mask), rows.response_mask
    )
