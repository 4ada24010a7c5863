"""What a run folder holds, as one value that JSON can write: the summary, curves, composition, costs and rows."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rl4llm.errors import UsageError
from rl4llm.look.batches import read_batches
from rl4llm.look.files import row_files

_MOST_POINTS = 400  # of one curve; more are averaged
Curve = list[Sequence[float]]


def read_run(run: Path, *, megabytes: float = 10.0) -> dict[str, Any]:
    """Read a run folder, which may belong to a run that is going on or was killed.

    Args:
        run: The folder.
        megabytes: Most of the rows; where there are more, every batch is cut after whole groups.

    Raises:
        UsageError: If the folder is not that of a run, or a file in it is damaged.
    """
    if not run.is_dir():
        raise UsageError(f"rl4llm look: there is no folder '{run}'; give a run folder, such as runs/asyppo/version_0.")
    files = row_files(run)
    if not ((run / "metrics.csv").is_file() or (run / "config.yaml").is_file() or files):
        inside = sorted(path.parent for path in run.glob("**/config.yaml"))[-1:]
        one = inside[0] if inside else "runs/asyppo/version_0"
        raise UsageError(f"rl4llm look: '{run}' is no run folder, as it holds no config.yaml; give one, such as {one}.")
    rows = read_metrics(run / "metrics.csv")
    config = _read_yaml(run / "config.yaml")
    return {
        "name": "/".join(run.resolve().parts[-2:]),
        "summary": _read_json(run / "summary.json"),
        "composition": composition(config),
        "config": yaml.safe_dump(config, sort_keys=False) if config else "",
        "curves": curves(rows),
        "costs": costs(rows),
        **read_batches(files, megabytes),
    }


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.csv` that are complete, without empty and non-finite entries."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        text = lines.read()
    complete = text[: text.rfind("\n") + 1].splitlines()  # a run that is going on may be writing the last line
    found = (row for row in csv.DictReader(complete) if None not in row and None not in row.values())
    return [{name: number for name, entry in row.items() if (number := _number(entry)) is not None} for row in found]


def _number(entry: str) -> float | None:
    try:
        number = float(entry)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def curves(rows: list[dict[str, float]]) -> dict[str, Curve]:
    """Return the points of every metric, as steps and numbers; long curves as means of neighbouring points.

    Example:
        >>> curves([{"step": 0, "val/accuracy": 0.5}, {"step": 1, "train/accuracy": 0.25}])
        {'train/accuracy': [[1], [0.25]], 'val/accuracy': [[0], [0.5]]}
    """
    names = sorted({name for row in rows for name in row} - {"step", "epoch"})
    stepped = [row for row in rows if "step" in row]
    return {name: _thinned([(row["step"], row[name]) for row in stepped if name in row]) for name in names}


def _thinned(points: list[tuple[float, float]]) -> Curve:
    size = -(-len(points) // _MOST_POINTS) or 1
    cut = [points[start : start + size] for start in range(0, len(points), size)]
    steps = [round(sum(step for step, _ in piece) / len(piece)) for piece in cut]
    return [steps, [float(f"{sum(number for _, number in piece) / len(piece):.6g}") for piece in cut]]


def costs(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return what every logged quantity of time and memory came to: its sum, mean and largest number.

    Example:
        >>> costs([{"time/step_seconds": 2.0}, {"time/step_seconds": 4.0}])
        [{'name': 'time/step_seconds', 'count': 2, 'sum': 6.0, 'mean': 3.0, 'largest': 4.0}]
    """
    names = sorted({name for row in rows for name in row if name.startswith(("time/", "memory/"))})
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return [
        {"name": name, "count": len(x), "sum": sum(x), "mean": sum(x) / len(x), "largest": max(x)}
        for name, x in found.items()
    ]


def composition(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the slots of a run's model and data as a tree of names, classes and settings.

    Example:
        >>> composition({"model": {"gate": {"class_path": "gates.AgreementGate", "init_args": {"exact": True}}}})
        [{'name': 'gate', 'part': 'AgreementGate', 'settings': [{'name': 'exact', 'value': 'true'}]}]
    """
    shown = {**(config.get("model") or {}), **(config.get("data") or {})}
    return [_slot(name, value) for name, value in shown.items()]


def _slot(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"name": name, "value": json.dumps(value) if not isinstance(value, str) else value}
    settings = value.get("init_args") or {} if "class_path" in value else value
    inner = [_slot(key, setting) for key, setting in settings.items()]
    return {"name": name, "part": str(value.get("class_path", "")).rpartition(".")[2], "settings": inner}


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: this is not YAML ({str(error).splitlines()[0]}); delete or mend it.") from None
    return found if isinstance(found, dict) else {}


def _read_json(file: Path) -> dict[str, Any]:
    """A summary is written in one move, so it is whole or, while the run goes on, not there."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: this is not JSON ({error}); delete or mend it.") from None
    return found if isinstance(found, dict) else {}
