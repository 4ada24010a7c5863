"""Prompts from Parquet files: one row each."""

from collections.abc import Iterator
from dataclasses import dataclass

from rl4llm.data.columns import Keys
from rl4llm.data.json_records import Record
from rl4llm.data.record_task import RecordTask
from rl4llm.data.sources import Source, check_files, file_sources
from rl4llm.data.table_records import parquet_records


@dataclass(frozen=True)
class Parquet(RecordTask):
    """A task from Parquet files: each row has a prompt (text or chat), an answer and, optionally, a response.

    `train`, `validation` and `test` are paths, or patterns such as `data/train-*.parquet`. The files are read batch by
    batch, and of their columns only those that are asked for. The format of verl is read with
    `answer_key="reward_model.ground_truth"`. See [RecordTask][rl4llm.data.record_task.RecordTask] for the fields.
    """

    def check_place(self, field: str, place: str) -> None:
        """Raise unless the place is a file or a pattern of files."""
        check_files("Parquet", field, place, ".parquet")

    def sources(self, place: str) -> tuple[Source, ...]:
        """Return the keys of the files."""
        return file_sources("Parquet", place)

    def records(self, source: Source, keys: Keys) -> Iterator[Record]:
        """Yield one record per row."""
        return parquet_records(source, keys)
