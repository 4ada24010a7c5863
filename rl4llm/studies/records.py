"""`records`: what the runs of a study have logged, as one table in long format that is written as Parquet."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rl4llm.runs.atomic import write_atomically
from rl4llm.studies.folders import Run, command_of

if TYPE_CHECKING:
    import pandas

COLUMNS = ["arm", "recipe", "seed", "step", "metric", "value", "command", "config"]


def records(runs: Sequence[Run]) -> "pandas.DataFrame":
    """Return every number that the runs have logged, one per row.

    The columns are `arm`, `recipe`, `seed`, `step` (rollout batches that were done), `metric`, `value`, `command` and
    `config`, the resolved configuration of the run as YAML. Every run has the rows `run/finished` (1 or 0), and those
    that have ended have `run/minutes` and `run/peak_memory_mib` as well.

    Args:
        runs: The runs; those that have not started have the row `run/finished` alone.
    """
    import pandas

    rows = pandas.concat([_rows(run) for run in runs], ignore_index=True)[COLUMNS]
    texts = ["arm", "recipe", "metric", "command", "config"]
    return rows.astype({**dict.fromkeys(texts, "category"), "seed": "int64", "step": "int64", "value": "float64"})


def write_records(table: "pandas.DataFrame", path: Path) -> None:
    """Write the table as one Parquet file, atomically."""
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    write_atomically(path, content.getvalue())


def _rows(run: Run) -> "pandas.DataFrame":
    import pandas

    summary, folder = run.summary, run.folder
    steps = int(summary.get("steps", 0))
    own = {f"run/{name}": summary.get(name) for name in ("minutes", "peak_memory_mib")}
    own["run/finished"] = float(run.finished)
    found = [pandas.DataFrame({"step": steps, "metric": list(own), "value": list(own.values())})]
    if folder is not None and (folder / "metrics.csv").is_file():
        found.insert(0, _logged(folder / "metrics.csv", steps or None))
    rows = pandas.concat(found, ignore_index=True).dropna(subset="value")
    saved = None if folder is None else folder / "config.yaml"
    config = saved.read_text(encoding="utf-8") if saved is not None and saved.is_file() else run.resolved.config
    arm = run.resolved.arm
    return rows.assign(arm=arm.name, recipe=arm.recipe, seed=run.seed, command=command_of(run), config=config)


def _logged(path: Path, steps: int | None) -> "pandas.DataFrame":
    """Read a run's `metrics.csv` in long format, with the number of rollout batches that were done as its step.

    The loggers count a batch from 0, and number the evaluations before and after training by the batches done.
    """
    import pandas

    wide = pandas.read_csv(path)
    before = wide["epoch"].isna()
    done = (wide["step"] + ~before).clip(upper=steps)
    wide = wide.drop(columns=["epoch", "step"]).assign(step=done)
    return wide.melt("step", var_name="metric", value_name="value").dropna(subset="value")
