"""`States` of critics with the truth about them, and all numbers by which their spread is compared with their error."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rl4llm.critics import critic_mean, critic_std, rank_correlation
from rl4llm.gates import agreement_gate, divergence_filter, high_entropy
from rl4llm.metrics import Calibration, ErrorByPlace, ExplainedVariance, GatedShare, SpreadErrorRankCorrelation

if TYPE_CHECKING:
    import pandas

FIFTHS, SHARE = 5, 0.2
PLACES, ENDS = ("begin", "middle", "end"), ("lowest", "highest")
POINTERS = ("σ", "entropy", "V(1 − V)")  # what may point at error


@dataclass(frozen=True)
class States:
    """What the critics of one run say at one moment about every token of some responses, and the truth.

    Args:
        critic_values: Vₘ(sₜ).
        halves: Mean score of each half of the completions of sₜ, along the last axis.
        entropies: H(π(·|sₜ)).
        token_ids: The tokens that were drawn.
        mask: True at tokens.
    """

    critic_values: Tensor
    halves: Tensor
    entropies: Tensor
    token_ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, table: "pandas.DataFrame") -> "States":
        """Lay the rows of one run and moment out as [response, token]."""
        at = (torch.tensor(table["response"].values), torch.tensor(table["column"].values))
        shape = tuple(int(index.max()) + 1 for index in at)
        critics = [name for name in table if name.startswith("critic_") and table[name].notna().all()]

        def laid(name: str, fill: float = 0.0) -> Tensor:
            column = torch.tensor(table[name].values)
            return torch.full(shape, fill, dtype=column.dtype).index_put(at, column)

        mask = torch.zeros(shape, dtype=torch.bool).index_put(at, torch.tensor(True))
        halves = torch.stack([laid("truth_a"), laid("truth_b")], -1)
        return cls(torch.stack([laid(name) for name in critics]), halves, laid("entropy"), laid("token_id"), mask)

    @cached_property
    def values(self) -> Tensor:
        """V̄(sₜ)."""
        return critic_mean(self.critic_values)

    @cached_property
    def spread(self) -> Tensor:
        """σₜ."""
        return critic_std(self.critic_values)

    @cached_property
    def truth(self) -> Tensor:
        """Mean score of all completions."""
        return self.halves.mean(-1)

    @cached_property
    def squared_error(self) -> Tensor:
        """Product of the errors against the two halves: (V̄ − truth)² on average, without the noise of the truth."""
        return (self.values[..., None] - self.halves).prod(-1)

    @cached_property
    def variance(self) -> Tensor:
        """p (1 − p) of the outcome on average, without bias, from the two halves."""
        a, b = self.halves.unbind(-1)
        return (a * (1 - b) + b * (1 - a)) / 2

    def error(self, where: Tensor) -> float:
        """Return the root of the mean squared error at some tokens, without the noise of the truth."""
        return float(self.squared_error[where & self.mask].mean().clamp(min=0).sqrt())


def numbers(states: States, kinds: Tensor) -> dict[str, float]:
    """Return all that the tables show about one run at one moment, by name."""
    mask, values, truth = states.mask, states.values, states.truth
    metrics = {"explained": ExplainedVariance(), "calibration": Calibration(bins=FIFTHS), "place": ErrorByPlace()}
    for metric in metrics.values():
        metric.update(values, truth, mask)
    ranks = SpreadErrorRankCorrelation()
    ranks.update(states.critic_values, truth, mask)
    miss, calibration = (values - truth).abs()[mask], metrics["calibration"].compute()
    found = {
        "error": states.error(mask),
        "explained variance": float(metrics["explained"].compute()),
        "calibration error": float(calibration["error"]),
        "ρ(σ, error)": float(ranks.compute()),
        "ρ(entropy, error)": float(rank_correlation(states.entropies[mask], miss)),
        "ρ(V(1 − V), error)": float(rank_correlation((values * (1 - values))[mask], miss)),
        "ρ(σ, entropy)": float(rank_correlation(states.spread[mask], states.entropies[mask])),
    }
    found |= _ends(states)
    found |= {f"error {name}": float(x) for name, x in zip(PLACES, metrics["place"].compute(), strict=True)}
    for index, (said, true) in enumerate(calibration["curve"].tolist()):
        found |= {f"value {index}": said, f"truth {index}": true}
    return found | _gated(states, kinds) | _by_fifth(states)


def _ends(states: States) -> dict[str, float]:
    """Return the squared error, free of the truth's noise, in the lowest and highest fifth of what may point at it."""
    columns = (states.spread, states.entropies, states.values * (1 - states.values))
    found = {}
    for name, pointer in zip(POINTERS, columns, strict=True):
        order = pointer[states.mask].argsort(stable=True)
        fifths = states.squared_error[states.mask][order].tensor_split(FIFTHS)
        found |= {f"{end} by {name}": float(fifths[index].mean()) for end, index in zip(ENDS, (0, -1), strict=True)}
    return found


def _gated(states: States, kinds: Tensor) -> dict[str, float]:
    """Return errors, kinds and entropies of what the gate and the filter of AsyPPO drop."""
    mask = states.mask
    kept = {
        "gate": agreement_gate(states.critic_values, mask, fraction=SHARE),
        "filter": divergence_filter(states.critic_values, mask, fraction=SHARE),
    }
    low = mask & ~high_entropy(states.entropies, mask, fraction=SHARE)
    found = {"error kept by both": states.error(kept["gate"] & kept["filter"])}
    for name, keep in kept.items():
        share, dropped = GatedShare(kinds), mask & ~keep
        share.update(keep, states.token_ids, mask)
        found[f"error {name}"] = states.error(dropped)
        found |= {f"{name} {kind}": float(x) for kind, x in share.compute().items()}
        found[f"{name} in low entropy"] = float((dropped & low).sum() / dropped.sum())
    return found


def _by_fifth(states: States) -> dict[str, float]:
    """Return spread, error, entropy and outcome variance by fifths of the spread."""
    order = states.spread[states.mask].argsort(stable=True)
    columns = {"σ": states.spread, "squared error": states.squared_error, "H": states.entropies, "p": states.variance}
    parts = {name: column[states.mask][order].tensor_split(FIFTHS) for name, column in columns.items()}
    return {f"{name} {index}": float(x.mean()) for name, fifths in parts.items() for index, x in enumerate(fifths)}
