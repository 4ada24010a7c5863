"""Token-weighted means of diagnostics, gathered over the microbatches of one iteration."""

from collections.abc import Callable

import torch
from torch import Tensor

from rl4llm.algorithms.composition import Composition
from rl4llm.batch import RolloutBatch
from rl4llm.critics import critic_std, explained_variance, spread_error_correlation
from rl4llm.masked import masked_sum


class Meter:
    """Sums and weights by name. Nothing is read back from the device before [means][rl4llm.algorithms.meter.Meter]."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Add values, counting those where the mask is True (all of them without a mask)."""
        values = values.detach()
        mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        total, weight = masked_sum(values, mask), mask.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._weights[name] = self._weights[name] + weight if name in self._weights else weight

    def means(
        self, sum_over_ranks: Callable[[Tensor], Tensor] = lambda x: x, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Σ values / Σ weights for every name with a weight; `device` is where ranks can sum."""
        names = sorted(self._sums)
        if not names:
            return {}
        sums = torch.stack([self._sums[name].to(device, torch.float32) for name in names])
        weights = torch.stack([self._weights[name].to(device, torch.float32) for name in names])
        sums, weights = sum_over_ranks(torch.stack([sums, weights]))
        return {n: s / w for n, s, w in zip(names, sums, weights, strict=True) if w > 0}


def scalar(value: float) -> Tensor:
    """A number as the one-entry tensor that a meter takes."""
    return torch.tensor([float(value)])


def observe_batch(batch: RolloutBatch, composition: Composition, meter: Meter) -> None:
    """What a rollout batch shows before the update: advantages, gates and, where there are critics, their values."""
    mask = batch.response_mask
    (gates,) = batch.require("gates", by="observe_batch")
    meter.add("policy/gated_share", (~gates[0]).float(), mask)
    for slot, where in zip(composition.active_regularizers(), gates[1:], strict=True):
        meter.add(f"penalty/{slot}_filtered_share", (~where).float(), mask)
    if batch.replayed is not None:
        meter.add("train/replayed_share", batch.replayed.float())
    if composition.advantage is not None and batch.advantages is not None:
        meter.add("policy/advantage", batch.advantages, mask)
        for name, values in composition.advantage.diagnostics(batch).items():
            meter.add(f"advantage/{name}", values)
    if batch.values is not None:
        meter.add("critics/value", batch.values, mask)
    if batch.values is not None and batch.returns is not None:
        _observe_critics(batch, batch.values, batch.returns, meter)


def _observe_critics(batch: RolloutBatch, values: Tensor, returns: Tensor, meter: Meter) -> None:
    mask = batch.response_mask
    meter.add("critics/explained_variance", explained_variance(values, returns, mask).reshape(1))
    if batch.critic_values is not None:
        meter.add("critics/spread", critic_std(batch.critic_values), mask)
        correlation = spread_error_correlation(batch.critic_values, returns, mask)
        meter.add("critics/spread_error_correlation", correlation.reshape(1))
