"""Metrics of a judged rollout batch, taken before the update."""

from functools import cache

from torch import Tensor

from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.critics import (
    calibration_error,
    critic_std,
    explained_variance,
    response_places,
    spread_error_correlation,
)
from rl4llm.metrics import KINDS, Vocabulary, kinds_at, token_kinds

_THIRDS = ("begin", "middle", "end")


def observe_batch(
    batch: RolloutBatch, composition: Composition, meter: Meter, vocabulary: Vocabulary | None = None
) -> None:
    """Add advantages, gates and, where there are critics, their values; of the whole batch, the same on every rank.

    Args:
        batch: The judged rollout batch.
        composition: The parts of the algorithm.
        meter: Receives the numbers.
        vocabulary: The tokenizer, for the share of gated tokens by kind; None leaves that out.
    """
    mask = batch.response_mask
    (gates,) = batch.require("gates", by="observe_batch")
    meter.add("policy/gated_share", (~gates[0]).float(), mask)
    if composition.loss.gate is not None and vocabulary is not None:
        _observe_kinds(batch, gates[0], vocabulary, meter)
    for slot, where in zip(composition.loss.active_regularizers(), gates[1:], strict=True):
        meter.add(f"penalty/{slot}_filtered_share", (~where).float(), mask)
    if batch.replayed is not None:
        meter.add("train/replayed_share", batch.replayed.float())
    advantage = composition.credit.advantage
    if advantage is not None and batch.advantages is not None:
        meter.add("policy/advantage", batch.advantages, mask)
        for name, values in advantage.diagnostics(batch).items():
            meter.add(f"advantage/{name}", values)
    if batch.values is not None:
        meter.add("critics/value", batch.values, mask)
    if batch.values is not None and batch.returns is not None:
        _observe_critics(batch, batch.values, batch.returns, meter)


def _observe_kinds(batch: RolloutBatch, keep: Tensor, vocabulary: Vocabulary, meter: Meter) -> None:
    found = kinds_at(batch.response_ids, _kinds_of(vocabulary).to(batch.response_ids.device))
    for index, kind in enumerate(KINDS):
        meter.add(f"policy/gated_share/{kind}", (~keep).float(), batch.response_mask & (found == index))


_kinds_of = cache(token_kinds)  # a vocabulary of 150,000 tokens takes a second


def _observe_critics(batch: RolloutBatch, values: Tensor, returns: Tensor, meter: Meter) -> None:
    mask = batch.response_mask
    meter.add("critics/explained_variance", explained_variance(values, returns, mask).reshape(1))
    last_two = mask & (mask.flip(-1).cumsum(-1).flip(-1) <= 2)
    meter.add("critics/explained_variance_last_two", explained_variance(values, returns, last_two).reshape(1))
    meter.add("critics/calibration_error", calibration_error(values[mask], returns[mask]).reshape(1))
    for part, name in enumerate(_THIRDS):
        meter.add(f"critics/error_{name}", (values - returns).abs(), response_places(mask, len(_THIRDS)) == part)
    if batch.return_spread is not None:
        meter.add("critics/return_spread", batch.return_spread, mask)
    if batch.critic_values is not None:
        meter.add("critics/spread", critic_std(batch.critic_values), mask)
        correlation = spread_error_correlation(batch.critic_values, returns, mask)
        meter.add("critics/spread_error_correlation", correlation.reshape(1))
