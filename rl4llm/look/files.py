"""Files of annotated rows: Parquet, one row per response, with one list per column of per-token numbers.

| column | type | content |
|---|---|---|
| `step` | int | rollout batches learned from, this one included |
| `group` | int | which draw of a prompt the response answers |
| `prompt_uid` | int | identity of the prompt in its data set |
| `prompt`, `response` | string | decoded; the prompt with its special tokens |
| `answer` | string | what the reward compares with; null where it is not known |
| `score` | float | null where the response could not be scored |
| `correct`, `truncated`, `replayed` | bool | as in [RolloutBatch][rl4llm.batch.RolloutBatch] |
| `length` | int | number of trained tokens |
| `token_ids`, `tokens` | list | ids and texts of the response's tokens |
| `trained` | list of bool | whether the policy sampled the token and may learn from it |
| `gate` | list of bool | False where the policy's objective learns nothing from the token |
| `filter_<slot>` | list of bool | False where the regularizer in this slot leaves the token out |
| `log_probs` | list of float | of the policy before the update |
| `ratio` | list of float | probability of the token after the update over that before it |
| `rollout_log_probs`, `ref_log_probs`, `entropies`, `rewards`, `values`, `returns`, `advantages`, `return_spread` | \
list of float | the fields of the batch; a column is left out where the run has no such numbers |
| `spread` | list of float | standard deviation over the critics' values |
| `critic_<i>` | list of float | values of critic i |

Numbers are null at tokens that are not trained.
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
