"""The readers of files, by how the file's name ends."""

from collections.abc import Iterator

from rl4llm.data.columns import Keys
from rl4llm.data.json_records import Record, json_records
from rl4llm.data.sources import Source
from rl4llm.data.table_records import parquet_records


def file_records(source: Source, keys: Keys) -> Iterator[Record]:
    """Yield the records of a file: of Parquet if its name ends in `.parquet`, else of JSON lines."""
    return parquet_records(source, keys) if source.path.endswith(".parquet") else json_records(source)
