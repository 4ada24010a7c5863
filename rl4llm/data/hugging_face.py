"""Prompts from Hugging Face data sets: by name, or from a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rl4llm.checks import UsageError
from rl4llm.data.columns import Keys
from rl4llm.data.extras import needed
from rl4llm.data.json_records import Record
from rl4llm.data.record_task import RecordTask
from rl4llm.data.sources import Source
from rl4llm.data.table_records import dataset_records
from rl4llm.rewards import Reward


@dataclass(frozen=True, kw_only=True)
class HuggingFaceDataset(RecordTask):
    """A task from a Hugging Face data set; `train`, `validation` and `test` are the names of its splits.

    A folder is read without a network: one that `save_to_disk` wrote, or one with Parquet, JSON, CSV, Arrow or text
    files. A script of a data set is never executed. See [RecordTask][rl4llm.data.record_task.RecordTask] for the other
    fields.

    Args:
        path: Folder of the data set, or its name on the hub, such as openai/gsm8k.
        subset: Configuration of the data set, or a folder within its folder.
        train: Split of the training prompts; a|b is the first of two that the data set has.
        reward: The verifier: any function `(prompt, response, answer) -> score`, given by its import path.
    """

    path: str
    reward: Reward
    subset: str | None = None
    train: str | None = "train"

    def check_place(self, field: str, place: str) -> None:
        """Raise if the data set can be neither a folder that exists nor a name on the hub."""
        check_dataset("HuggingFaceDataset", self.path)

    def sources(self, place: str) -> tuple[Source, ...]:
        """Return the key of the split."""
        return (dataset_source("HuggingFaceDataset", self.path, self.subset, place),)

    def records(self, source: Source, keys: Keys) -> Iterator[Record]:
        """Yield one record per row of the split."""
        return dataset_records(source, keys)


def check_dataset(name: str, path: str) -> None:
    """Raise unless a path is a folder or may be a name on the hub, and the package that reads it is there.

    Raises:
        UsageError: Naming what is missing.
    """
    if Path(path).is_file():
        raise UsageError(f"{name}: '{path}' is a file; use --data.task=Parquet or JsonLines, or pass its folder.")
    if not Path(path).is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UsageError(
            f"{name}: folder '{path}' does not exist; pass the folder of a data set, or a name on the hub."
        )
    needed("datasets", f"{name}: reading a data set", "data")


def dataset_source(name: str, path: str, subset: str | None, part: str) -> Source:
    """Return the key of a split, which changes when the files of a folder do."""
    files = [file.stat() for file in Path(path).rglob("*") if file.is_file()] if Path(path).is_dir() else []
    changed, size = max((file.st_mtime_ns for file in files), default=0), sum(file.st_size for file in files)
    place = str(Path(path).resolve()) if files else path
    return Source(name, place, f"{path} ({part})", changed, size, part, subset or "")
