"""Records of a JSON-lines file: every fault is one line that says where it is."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from rl4llm.checks import UsageError
from rl4llm.data.columns import kind
from rl4llm.data.sources import Source, unreadable


class Record(NamedTuple):
    """One row of a source.

    Args:
        number: Its number within the source, counted from 0.
        where: Source and number as messages call them.
        columns: The values by name.
    """

    number: int
    where: str
    columns: dict[str, Any]


def json_records(source: Source) -> Iterator[Record]:
    """Yield one record per line that is not blank.

    Raises:
        UsageError: At the first line that is not UTF-8 text, or not an object in JSON.
    """
    for number, line in _lines(source):
        where = f"{source.name}: {source.shown} line {number + 1}"
        yield Record(number, where, _parsed(line, where))


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank. Only a newline ends a line: others, such as U+2028, may stand in a string."""
    try:
        with open(source.path, "rb") as stream:
            for number, line in enumerate(stream):
                text = _decoded(line, number, source)
                if text.strip():
                    yield number, text
    except OSError as error:
        raise unreadable(source.name, source.shown, error) from None


def _decoded(line: bytes, number: int, source: Source) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise UsageError(
            f"{source.name}: {source.shown} line {number + 1} is not UTF-8 text (byte 0x{byte:02x}); "
            "write one JSON object per line, encoded in UTF-8 and not compressed."
        ) from None


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]
        raise UsageError(f"{where} is not JSON ({reason}); write one object per line.") from None
    if not isinstance(record, dict):
        raise UsageError(f"{where} is {kind(record)}; write one object per line.")
    return record
