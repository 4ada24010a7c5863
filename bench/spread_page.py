"""Writes the section "Is the spread uncertainty?" of the page on the AsyPPO study from the states that runs measured.

python -m bench.spread_page runs/spread/*/seed_*/asyppo/version_0    # run folders with states/, see spread_states
python -m bench.spread_page                                          # from the data file alone
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import yaml

from bench.asyppo_study import FOLDER, PAGE, filled
from bench.ending import end_in_one_line
from bench.spread_numbers import ENDS, FIFTHS, PLACES, POINTERS, States, numbers
from rl4llm.checks import UsageError
from rl4llm.metrics import KINDS, token_kinds
from rl4llm.models import Policy
from rl4llm.studies.records import write_records
from rl4llm.studies.tables import markdown_table

if TYPE_CHECKING:
    import pandas

DATA = FOLDER / "spread_states.parquet"
MODEL = "rl4llm/digits"


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
        "Error in the lowest and in the highest fifth of each of the three:",
        _ends_table(found),
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


def _ends_table(found: Found) -> str:
    """Return a table of the errors in the lowest and the highest fifth, and in how many seeds the latter is larger."""
    rows = []
    for (critics, step), seeds in found.items():
        cells = []
        for name in POINTERS:
            low, high = ([one[f"{end} by {name}"] for one in seeds] for end in ENDS)
            larger = sum(b > a for a, b in zip(low, high, strict=True))
            cells.append(f"{_root(fmean(low)):.3f} → {_root(fmean(high)):.3f}, larger in {larger} of {len(seeds)}")
        rows.append([str(critics), str(step), *cells])
    return markdown_table(("critics", "batches", *(f"by {name}" for name in POINTERS)), rows)


def _root(mean: float) -> float:
    """Return the root of a mean that noise may have made negative."""
    return max(mean, 0.0) ** 0.5


def _fifths(found: Found, step: int, columns: Mapping[str, str]) -> str:
    """Return a table with a row per number of critics and quantity, and a column per fifth."""
    rows = []
    for (critics, at), seeds in found.items():
        for title, name in columns.items() if at == step else ():
            means = [fmean(one[f"{name} {index}"] for one in seeds) for index in range(FIFTHS)]
            means = [_root(mean) for mean in means] if name == "squared error" else means
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
    end_in_one_line(main)
