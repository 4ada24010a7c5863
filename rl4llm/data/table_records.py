"""Records of tables: Parquet files and Hugging Face data sets, read batch by batch and never executed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.data.columns import Keys, listed
from rl4llm.data.extras import needed
from rl4llm.data.json_records import Record
from rl4llm.data.sources import Source, unreadable

_ROWS = 1024  # read at a time: more of them cost memory and save no time

# Readers of plain values. Others of the library decode images, archives or programs.
_BUILDERS = ("arrow", "csv", "json", "parquet", "text")


def parquet_records(source: Source, keys: Keys) -> Iterator[Record]:
    """Yield one record per row of a Parquet file, with the columns that the keys can lead to.

    Raises:
        UsageError: If pyarrow is missing, or at the first fault of the file.
    """
    parquet = needed("pyarrow.parquet", f"{source.name}: reading Parquet", "data")
    try:
        with parquet.ParquetFile(source.path) as file:
            names = keys.among(file.schema_arrow.names, f"{source.name}: {source.shown}")
            yield from _rows(source, file.iter_batches(_ROWS, columns=names))
    except UsageError:
        raise
    except OSError as error:
        if error.strerror:
            raise unreadable(source.name, source.shown, error) from None
        raise _corrupt(source, error) from None
    except (ValueError, NotImplementedError, KeyError) as error:  # pyarrow's own errors are kinds of these
        raise _corrupt(source, error) from None


def dataset_records(source: Source, keys: Keys) -> Iterator[Record]:
    """Yield one record per row of a split of a data set, with the columns that the keys can lead to.

    Raises:
        UsageError: If datasets is missing, or if the data set, its subset or its split cannot be read.
    """
    table = _split_of(source)
    names = keys.among(table.column_names, f"{source.name}: {source.shown}")
    yield from _rows(source, table.select_columns(names).with_format("arrow").iter(_ROWS))


def _rows(source: Source, batches: Iterable[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for columns in batch.to_pylist():
            yield Record(number, f"{source.name}: {source.shown} row {number + 1}", columns)
            number += 1


def _corrupt(source: Source, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(".")
    return UsageError(f"{source.name}: {source.shown} is no readable Parquet file ({reason}); pass an intact one.")


def _split_of(source: Source) -> Any:
    """The split of a data set, as a table that lies on disk."""
    datasets = needed("datasets", f"{source.name}: reading a data set", "data")
    try:
        saved = _saved(datasets, source)
        found = _loaded(datasets, source) if saved is None else saved
    except UsageError:
        raise
    except Exception as error:  # of the library, of the network, of whatever the folder holds
        raise UsageError(f"{source.name}: {source.shown} cannot be read ({_reason(error)}); {_REMEDY}.") from error
    part = next((one for one in source.part.split("|") if one in found), None)
    if part is None:
        raise UsageError(f"{source.name}: {source.shown} has no split '{source.part}'; it has {listed(found)}.")
    return found[part]


_REMEDY = "pass the folder of a data set, or its name on the hub while a network is there"


def _saved(datasets: Any, source: Source) -> Any:
    """The splits of a folder that `save_to_disk` wrote; None if it is none."""
    folder = Path(source.path)
    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        return None
    found = datasets.load_from_disk(source.path)
    return found if isinstance(found, dict) else dict.fromkeys(source.part.split("|"), found)


def _loaded(datasets: Any, source: Source) -> Any:
    """The splits of a folder of files or of a data set on the hub, if plain values are all that is read."""
    inside = Path(source.path) / source.subset
    whole = source.subset and Path(source.path).is_dir() and inside.is_dir()
    place, subset = (str(inside), None) if whole else (source.path, source.subset or None)
    builder = datasets.load_dataset_builder(place, subset)
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in _BUILDERS:
        raise UsageError(
            f"{source.name}: {source.shown} holds data of the kind '{reader}'; pass Parquet, JSON, CSV, Arrow or text."
        )
    return datasets.load_dataset(place, subset)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160].rstrip('.')}" if lines else type(error).__name__
