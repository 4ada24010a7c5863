"""Token-weighted means of diagnostics, over the microbatches and ranks of one rollout batch."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl4llm.masked import masked_sum

Sums = dict[str, tuple[Tensor, Tensor]]


class Meter:
    """Sums and weights by name. Nothing is read back from the device before [means][rl4llm.algorithms.meter.Meter]."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._began = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the seconds since the last lap, or since the meter was made, as `time/<phase>_seconds`."""
        now = time.perf_counter()
        self.add(f"time/{phase}_seconds", scalar(now - self._began))
        self._began = now

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Add values, counting those where the mask is True (all of them without a mask)."""
        values = values.detach()
        mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        total, weight = masked_sum(values, mask), mask.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._weights[name] = self._weights[name] + weight if name in self._weights else weight

    def copy(self) -> "Meter":
        """Return a meter that holds what this one holds now."""
        other = Meter()
        other.restore(self)
        return other

    def restore(self, other: "Meter") -> None:
        """Hold what the other meter holds, and forget everything else."""
        self._sums, self._weights = dict(other._sums), dict(other._weights)

    def means(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> dict[str, Tensor]:
        """Return Σ values / Σ weights over all ranks for every name that has a weight; float32 on the CPU.

        Ranks may have added under different names; each name's mean is over the ranks that know it.
        """
        names = list(self._sums)
        own = dict(zip(names, _pairs([self._sums[n] for n in names], [self._weights[n] for n in names]), strict=True))
        totals: dict[str, tuple[float, float]] = {}
        for sums in gather(own):
            for name, (total, weight) in sums.items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = (before[0] + total, before[1] + weight)
        return {n: torch.tensor(total / weight) for n, (total, weight) in sorted(totals.items()) if weight > 0}


def _pairs(sums: list[Tensor], weights: list[Tensor]) -> list[tuple[float, float]]:
    """Read all numbers back at once."""
    if not sums:
        return []
    device = next((x.device for x in sums if x.device.type != "cpu"), torch.device("cpu"))
    totals, counts = (torch.stack([x.to(device, torch.float32) for x in numbers]) for numbers in (sums, weights))
    return list(zip(*torch.stack([totals, counts]).tolist(), strict=True))


def scalar(value: float) -> Tensor:
    """Return a number as the one-entry tensor that a meter takes."""
    return torch.tensor([float(value)])
