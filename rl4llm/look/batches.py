"""The kept rollout batches of a run, packed so that a page of ten megabytes opens at once."""

import base64
import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rl4llm.errors import UsageError
from rl4llm.look.files import PLAIN, read_rows

_FLAG_BYTES, _NUMBER_BYTES, _ROW_BYTES, _BASE64 = 1, 4, 60, 4 / 3
_LEFT_OUT = ("step", "response")  # the batch says the step, and the tokens the response
Batches = dict[str, Any]


def read_batches(files: Mapping[int, Path], megabytes: float) -> Batches:
    """Return the rows of all files and the texts of their tokens.

    Args:
        files: The files by step.
        megabytes: Most of all batches together; each gets the same share, and keeps at least one group.

    Returns:
        `batches`, one per file, and `vocabulary`, the distinct texts of tokens that the batches count.
    """
    numbers: dict[str, int] = {}
    batches = [_packed(read_rows(path), step, numbers, 1e6 * megabytes / len(files)) for step, path in files.items()]
    return {"batches": batches, "vocabulary": list(numbers)}


def _packed(table: Any, step: int, numbers: dict[str, int], most_bytes: float) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in table.schema if str(field.type).startswith("list<")}
    flags = [name for name, kind in kinds.items() if kind.endswith("bool>")]
    floats = [name for name, kind in kinds.items() if kind.endswith(("float>", "double>"))]
    per_token = _BASE64 * (_NUMBER_BYTES * (1 + len(floats)) + _FLAG_BYTES * len(flags))
    kept = table.take(_whole_groups(table, per_token, most_bytes))
    lists = {name: kept[name].to_pylist() for name in ("tokens", *flags, *floats)}
    lengths = [len(row) for row in lists["tokens"]]
    for name, rows in lists.items():
        if [len(row or ()) for row in rows] != lengths:
            raise UsageError(f"rows of step {step}: {name} and tokens differ in length; delete this file.")
    texts = (numbers.setdefault(text, len(numbers)) for row in lists["tokens"] for text in row)
    return {
        "step": step,
        "responses": table.num_rows,
        "rows": {name: kept[name].to_pylist() for name in (*PLAIN, "length") if name not in _LEFT_OUT},
        "lengths": lengths,
        "tokens": _base64(array("I", texts)),
        "flags": {name: _base64(array("B", map(bool, _flat(lists[name])))) for name in flags},
        "numbers": {name: _base64(array("f", map(_float, _flat(lists[name])))) for name in floats},
    }


def _whole_groups(table: Any, per_token: float, most_bytes: float) -> list[int]:
    """The rows of the first groups that take at most so many bytes; those of the first group in any case."""
    from pyarrow.compute import list_value_length

    groups, sizes = table["group"].to_pylist(), dict[int, float]()
    lengths = list_value_length(table["tokens"]).to_pylist()
    texts = zip(lengths, table["prompt"].to_pylist(), table["answer"].to_pylist(), strict=True)
    for group, (length, prompt, answer) in zip(groups, texts, strict=True):
        size = per_token * length + len(json.dumps([prompt, answer])) + _ROW_BYTES
        sizes[group] = sizes.get(group, 0.0) + size
    chosen, total = set[int](), 0.0
    for group, size in sizes.items():
        total += size
        if chosen and total > most_bytes:
            break
        chosen.add(group)
    return [row for row, group in enumerate(groups) if group in chosen]


def _flat(rows: Iterable[Iterable[Any]]) -> Iterable[Any]:
    return (entry for row in rows for entry in row)


def _float(number: float | None) -> float:
    return float("nan") if number is None else number


def _base64(numbers: array) -> str:
    if numbers.itemsize > 1 and _BIG:
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


_BIG = array("H", [1]).tobytes() == b"\x00\x01"  # typed arrays of a browser are little-endian
