"""Files of annotated rows: Parquet, one row per response, with one list per column of per-token numbers.

The page *Look inside a run* of the documentation describes every column. Numbers are null at tokens that are not
trained.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from rl4llm.errors import UsageError

FOLDER = "rows"
PLAIN = ("step", "group", "prompt_uid", "prompt", "response", "answer", "score", "correct", "truncated", "replayed")
"""The columns that hold one entry per response, `length` beside them."""


def row_files(run: Path) -> dict[int, Path]:
    """Return the files of a run folder by their step, in ascending order."""
    found = {path.stem.removeprefix("step_"): path for path in (run / FOLDER).glob("step_*.parquet")}
    return dict(sorted((int(n), path) for n, path in found.items() if n.isdigit()))


def encode_rows(columns: Mapping[str, Any]) -> bytes:
    """Return the content of a Parquet file.

    Args:
        columns: Lists or Arrow arrays of one length, by name.

    Raises:
        UsageError: If pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    sink = BytesIO()
    parquet.write_table(arrow.table(dict(columns)), sink, compression="zstd")
    return sink.getvalue()


def read_rows(path: Path) -> Any:
    """Return the rows of a file as an Arrow table.

    Raises:
        UsageError: If pyarrow is not installed, or the file is damaged.
    """
    arrow, parquet = _arrow()
    try:
        table = parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: these rows cannot be read ({reason}); delete the file to leave them out.") from None
    missing = {*PLAIN, "length", "tokens", "trained"} - set(table.column_names)
    if missing:
        lacking = ", ".join(sorted(missing))
        raise UsageError(f"{path}: the columns {lacking} are missing; delete the file if no run has written it.")
    return table


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("annotated rows need the package pyarrow; run pip install 'rl4llm[data]'.") from error
    return pyarrow, pyarrow.parquet
