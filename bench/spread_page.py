"""Writes the section "Is the spread uncertainty?" of the page on the AsyPPO study from the states that runs measured.

python -m bench.spread_page runs/spread/*/seed_*/asyppo/version_0    # run folders with states/, see spread_states
python -m bench.spread_page                                          # from the data file alone
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
import yaml
from torch import Tensor

from bench.asyppo_study import FOLDER, PAGE, filled
from rl4llm.checks import UsageError
from rl4llm.critics import critic_mean, critic_std, rank_correlation
from rl4llm.gates import agreement_gate, divergence_filter, high_entropy
from rl4llm.metrics import (
    KINDS,
    Calibration,
    ErrorByPlace,
    ExplainedVariance,
    GatedShare,
    SpreadErrorRankCorrelation,
    token_kinds,
)
from rl4llm.models import Policy
from rl4llm.studies.records import write_records
from rl4llm.studies.tables import markdown_table

if TYPE_CHECKING:
    import pandas

DATA = FOLDER / "spread_states.parquet"
MODEL = "rl4llm/digits"
FIFTHS, SHARE = 5, 0.2
PLACES = ("begin", "middle", "end")


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
    found |= {f"error {name}": float(x) for name, x in zip(PLACES, metrics["place"].compute(), strict=True)}
    for index, (said, true) in enumerate(calibration["curve"].tolist()):
        found |= {f"value {index}": said, f"truth {index}": true}
    return found | _gated(states, kinds) | _by_fifth(states)


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


Found = Mapping[tuple[int, int], Sequence[Mapping[str, float]]]  # numbers of each seed, by critics and step


def measured(table: "pandas.DataFrame") -> Found:
    """Return the numbers of all runs and moments."""
    kinds = token_kinds(Policy.load(MODEL).tokenizer)
    found: dict[tuple[int, int], list[dict[str, float]]] = {}
    for (critics, step, _), rows in table.groupby(["critics", "step", "seed"], sort=True):
        found.setdefault((int(critics), int(step)), []).append(numbers(States.of(rows), kinds))
    return found


def section(table: "pandas.DataFrame") -> str:
    """Return the tables of the section."""
    found, last = measured(table), int(table["step"].max())
    heads, names = ("critics", "batches"), ["error", "explained variance", "calibration error"]
    names += [f"error {place}" for place in PLACES]
    correlations = ["ρ(σ, error)", "ρ(entropy, error)", "ρ(V(1 − V), error)", "ρ(σ, entropy)"]
    errors = ["error gate", "error kept by both", "error filter", "gate in low entropy", "filter in low entropy"]
    kinds = [kind for kind in KINDS if any(f"gate {kind}" in one for seeds in found.values() for one in seeds)]
    kinds = [f"{name} {kind}" for name in ("gate", "filter") for kind in kinds]
    parts = [
        "### What the critics know",
        _table(found, heads, names),
        f"Calibration by fifth of the values after {last} batches:",
        _fifths(found, last, {"mean value": "value", "mean truth": "truth"}),
        "### Does the spread point at error?",
        _table(found, heads, correlations, each=True),
        f"By fifth of the spread after {last} batches:",
        _fifths(found, last, {"σ": "σ", "error": "squared error", "entropy": "H", "outcome variance": "p"}),
        "### What is dropped",
        _table(found, heads, errors),
        _table(found, heads, kinds),
    ]
    return "\n\n".join(parts)


def _table(found: Found, heads: Sequence[str], names: Sequence[str], *, each: bool = False) -> str:
    rows = []
    for (critics, step), seeds in found.items():
        cells = [[one[name] for one in seeds if name in one] for name in names]
        rows.append([str(critics), str(step), *(_cell(numbers, each=each) for numbers in cells)])
    return markdown_table([*heads, *names], rows)


def _cell(numbers: Sequence[float], *, each: bool) -> str:
    """Return the mean over seeds, and on request the number of each seed."""
    if not numbers:
        return "–"
    if not each:
        return f"{fmean(numbers):.3f}"
    return f"{fmean(numbers):+.2f} ({', '.join(f'{number:+.2f}' for number in numbers)})"


def _fifths(found: Found, step: int, columns: Mapping[str, str]) -> str:
    """Return a table with a row per number of critics and quantity, and a column per fifth."""
    rows = []
    for (critics, at), seeds in found.items():
        for title, name in columns.items() if at == step else ():
            means = [fmean(one[f"{name} {index}"] for one in seeds) for index in range(FIFTHS)]
            means = [max(mean, 0.0) ** 0.5 for mean in means] if name == "squared error" else means
            rows.append([str(critics), title, *(f"{mean:.3f}" for mean in means)])
    return markdown_table(("critics", "", "lowest", "second", "third", "fourth", "highest"), rows)


def read(folders: Sequence[Path]) -> "pandas.DataFrame":
    """Read the states of several runs, with the number of critics and the seed of each.

    Raises:
        UsageError: If a folder has no states or no configuration.
    """
    import pandas

    tables = []
    for folder in folders:
        files, config = sorted((folder / "states").glob("step_*.parquet")), folder / "config.yaml"
        if not files or not config.is_file():
            raise UsageError(f"spread: '{folder}' has no states/step_*.parquet or no config.yaml; give a run folder.")
        seed = yaml.safe_load(config.read_text(encoding="utf-8"))["seed_everything"]
        for file in files:
            table = pandas.read_parquet(file)
            critics = sum(bool(re.fullmatch(r"critic_\d+", name)) for name in table)
            tables.append(table.assign(critics=critics, seed=seed))
    return pandas.concat(tables, ignore_index=True)


def main(arguments: list[str] | None = None) -> None:
    """Write the data file and the section."""
    import pandas

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="run folders; the data file if there are none")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose section is replaced")
    options = parser.parse_args(arguments)
    data = options.page.parent / FOLDER.name / DATA.name
    if not options.folders and not data.is_file():
        raise UsageError(f"spread: '{data}' does not exist; give the run folders that measured states.")
    table = read(options.folders) if options.folders else pandas.read_parquet(data)
    page = filled(options.page.read_text(encoding="utf-8"), {"spread": section(table)})
    if options.folders:
        data.parent.mkdir(parents=True, exist_ok=True)
        write_records(table, data)
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
