"""The policy's loss on some rows: objective and regularizers, each under its gate, and what is watched on the way."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.judge import on_policy
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.borders import checked_loss, checked_penalty
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
    version: int | None,
    duals: Mapping[str, DualVariable] = MappingProxyType({}),
) -> list[Tensor]:
    """Return the terms of the policy's loss, per token or per response, zero where their gates are False.

    Args:
        policy: The policy being trained.
        composition: Objective and regularizers.
        rows: A microbatch with `gates` and, where the objective needs them, `advantages`.
        meter: Receives the diagnostics.
        version: Which weights the policy has. Rows that these weights drew are on-policy: this pass gives their
            `old_log_probs`. None takes those of the rows as they are.
        duals: Weights of regularizers that are adapted, by slot; they observe what they weigh.
    """
    (gates,) = rows.require("gates", by="policy_losses")
    output = policy(rows, temperature=composition.rollout.sampling.temperature, asks=composition.asks())
    if version is not None:
        present, drew = output.log_probs.detach(), on_policy(rows, version)[:, None]
        away = (present - rows.rollout_log_probs).abs()
        meter.add("policy/engine_difference", away, drew & rows.response_mask & away.isfinite())
        rows = rows.replace(old_log_probs=torch.where(drew, present.to(rows.old_log_probs), rows.old_log_probs))
    objective, gate = checked_loss(composition.loss.objective, output, rows), gates[0]
    terms = [keep(objective, gate) if objective.ndim == 2 else objective]
    regularizers, averaging = composition.loss.active_regularizers(), composition.loss.averaging()
    means = list(zip(averaging.masks(rows), averaging.aggregators, strict=True))[1:]
    for (slot, regularizer), where, mean in zip(regularizers.items(), gates[1:], means, strict=True):
        penalty = checked_penalty(regularizer, output, rows)
        meter.add(f"penalty/{slot}", penalty, where)
        if slot in duals:
            duals[slot].observe(penalty, where, *mean)
            penalty = penalty * duals[slot].multiplier.to(penalty.dtype)
        terms.append(keep(penalty, where))
    _observe(output.log_probs, objective, rows, gate, meter)
    return terms


def _observe(log_probs: Tensor, objective: Tensor, rows: RolloutBatch, gate: Tensor, meter: Meter) -> None:
    if torch.is_grad_enabled() and rows.advantages is not None:
        silenced = silenced_tokens(objective, log_probs, rows.advantages, rows.response_mask)
        meter.add("policy/clip_share", silenced.float(), gate)
    meter.add("policy/loss", objective, rows.response_mask if objective.ndim == 2 else rows.response_mask.any(-1))
    meter.add(
        "policy/approximate_kl", approximate_kl(log_probs, rows.old_log_probs, rows.response_mask), rows.response_mask
    )
