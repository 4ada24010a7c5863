"""Responses as a file, one row per response: Parquet where pyarrow is installed, JSON lines otherwise."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rl4llm.algorithms.held_out import Sample
from rl4llm.checks import UsageError
from rl4llm.runs.atomic import write_atomically

Format = Literal["auto", "parquet", "jsonl"]


def chosen_format(given: Format) -> Literal["parquet", "jsonl"]:
    """Return the format of the file.

    Raises:
        UsageError: If Parquet is asked for and pyarrow is not installed.
    """
    installed = find_spec("pyarrow") is not None
    if given == "parquet" and not installed:
        raise UsageError("generations=parquet needs the package pyarrow; pip install 'rl4llm[data]', or give jsonl.")
    if given == "auto":
        return "parquet" if installed else "jsonl"
    return given


def write_generations(folder: Path, generations: Mapping[str, Sequence[Sample]], form: Format) -> Path:
    """Write all responses of an evaluation.

    Args:
        folder: Where the file `generations.parquet` or `generations.jsonl` goes.
        generations: The responses to each task's prompts.
        form: The format.

    Returns:
        The file.
    """
    rows = [{"task": task, **_encodable(sample.row())} for task, samples in generations.items() for sample in samples]
    chosen = chosen_format(form)
    file = folder / f"generations.{chosen}"
    if chosen == "jsonl":
        write_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    else:
        write_atomically(file, _parquet(rows))
    return file


def _encodable(row: dict[str, Any]) -> dict[str, Any]:
    """Half of a surrogate pair, which no file can hold, becomes its escape."""
    return {name: x.encode(errors="backslashreplace").decode() if isinstance(x, str) else x for name, x in row.items()}


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    text, number, truth = pyarrow.string(), pyarrow.int64(), pyarrow.bool_()
    kinds = {"uid": number, "sample": number, "length": number, "correct": truth, "truncated": truth}
    kinds["score"] = pyarrow.float64()
    names = ["task", *Sample(0, 0, "", "", 0.0, False).row()]
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in names])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()
