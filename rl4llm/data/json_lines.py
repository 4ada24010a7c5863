"""Prompts from JSON-lines files: one object per line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rl4llm.data.columns import Keys
from rl4llm.data.json_records import Record, json_records
from rl4llm.data.record_task import RecordTask
from rl4llm.data.sources import Source, check_files, file_sources


@dataclass(frozen=True)
class JsonLines(RecordTask):
    """A task from files: each line an object with a prompt (text or chat), an answer and, optionally, a response.

    `train`, `validation` and `test` are paths, or patterns such as `data/train-*.jsonl`.
    See [RecordTask][rl4llm.data.record_task.RecordTask] for the fields.
    """

    unit: ClassVar[str] = "line"

    def check_place(self, field: str, place: str) -> None:
        """Raise unless the place is a file or a pattern of files."""
        check_files("JsonLines", field, place, ".jsonl")

    def sources(self, place: str) -> tuple[Source, ...]:
        """Return the keys of the files."""
        return file_sources("JsonLines", place)

    def records(self, source: Source, keys: Keys) -> Iterator[Record]:
        """Yield one record per line."""
        return json_records(source)
