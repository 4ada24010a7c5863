"""`Results`: the numbers of a study by arm and seed, read from its Parquet file, whatever of it is finished."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rl4llm.checks import UsageError
from rl4llm.studies import Measure, curves

if TYPE_CHECKING:
    import pandas

COLUMNS = ("arm", "recipe", "seed", "step", "metric", "value", "command", "config")
FINISHED = "run/finished"
OWN = (("seed_everything",), ("trainer", "default_root_dir"), ("trainer", "enable_progress_bar"))  # of a run, no choice
Curve = list[tuple[int, float]]
Curves = Mapping[int, Curve]  # by seed


@dataclass(frozen=True)
class Results:
    """What the runs of a study have logged.

    Args:
        table: The long table that `rl4llm report` writes as `metrics.parquet`.
    """

    table: "pandas.DataFrame"

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read a Parquet file of a study.

        Raises:
            UsageError: If there is no such file, or it is not one of a study.
        """
        import pandas

        if not path.is_file():
            raise UsageError(f"study: '{path}' does not exist; rl4llm report STUDY.yaml writes metrics.parquet.")
        try:
            table = pandas.read_parquet(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"study: '{path}' cannot be read ({' '.join(str(error).split())[:120]}).") from None
        missing = [name for name in COLUMNS if name not in table]
        if missing or FINISHED not in set(table["metric"]):
            lacks = f"the columns {missing}" if missing else f"the metric {FINISHED}"
            raise UsageError(f"study: '{path}' lacks {lacks}; give the metrics.parquet of rl4llm report.")
        return cls(table)

    @cached_property
    def planned(self) -> dict[str, set[int]]:
        """The seeds of each arm, run or not, in the order of the study."""
        rows = self.table[self.table["metric"] == FINISHED]
        found: dict[str, set[int]] = {}
        for arm, seed in rows[["arm", "seed"]].itertuples(index=False):
            found.setdefault(str(arm), set()).add(int(seed))
        return found

    @cached_property
    def finished(self) -> dict[str, set[int]]:
        """The finished seeds of each arm."""
        rows = self.table[(self.table["metric"] == FINISHED) & (self.table["value"] == 1)]
        done = set(zip(rows["arm"].astype(str), rows["seed"], strict=True))
        return {arm: {seed for seed in seeds if (arm, seed) in done} for arm, seeds in self.planned.items()}

    def curves(self, metric: str) -> dict[str, Curves]:
        """Return the curves of a metric in finished runs, by arm and seed."""
        found = curves(self.table, metric)
        return {
            arm: {seed: found[arm][seed] for seed in sorted(seeds) if seed in found.get(arm, {})}
            for arm, seeds in self.finished.items()
        }

    def values(self, measure: Measure) -> dict[str, dict[int, float]]:
        """Return a measure of every finished run that has logged it, by arm and seed."""
        by_arm = self.curves(measure.metric).items()
        return {arm: {seed: measure(curve) for seed, curve in by_seed.items()} for arm, by_seed in by_arm}

    def settings(self, arm: str) -> dict[str, Any]:
        """Return the resolved settings of an arm by dotted name, without those that belong to the single run.

        Raises:
            UsageError: If the study has no such arm.
        """
        rows = self.table[self.table["arm"] == arm]
        if rows.empty:
            raise UsageError(f"study: there is no arm '{arm}' among {', '.join(self.planned)}; give the AsyPPO study.")
        content = yaml.safe_load(str(rows["config"].iloc[0])) or {}
        for *place, name in OWN:
            _at(content, place).pop(name, None)
        return dict(_flat(content))

    def only(self, metrics: Sequence[str]) -> "Results":
        """Return the numbers of some metrics alone, with configurations that name no folder.

        The configuration of a run loses what belongs to the run alone, so that the runs of an arm share one.
        """
        table = self.table[self.table["metric"].isin([*metrics, FINISHED])].copy()
        for name in ("arm", "recipe", "metric", "command", "config"):
            table[name] = table[name].astype(str)
        table["config"] = table["config"].map({text: _without_own(text) for text in table["config"].unique()})
        texts = dict.fromkeys(("arm", "recipe", "metric", "command", "config"), "category")
        return Results(table.astype(texts).reset_index(drop=True))


def _at(content: dict[str, Any], place: Sequence[str]) -> dict[str, Any]:
    for name in place:
        content = content.get(name) or {}
    return content


def _without_own(text: str) -> str:
    content = yaml.safe_load(text) or {}
    for *place, name in OWN:
        _at(content, place).pop(name, None)
    return yaml.safe_dump(content, sort_keys=False)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a configuration; a part is named by its slot and class, its arguments by their own names."""
    if not isinstance(content, Mapping):
        yield prefix, content
        return
    if "class_path" in content:
        yield prefix, str(content["class_path"]).rpartition(".")[2]
        content = content.get("init_args") or {}
    for name, value in content.items():
        yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two arms differ; None stands for a setting that an arm does not have.

    Example:
        >>> differences({"a": 1, "b": 2}, {"a": 1, "c": 3})
        {'b': (2, None), 'c': (None, 3)}
    """
    names = [*first, *(name for name in second if name not in first)]
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
