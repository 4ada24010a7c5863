"""The libraries of the extra `report`: statistics, tables and Parquet."""

from importlib.util import find_spec

from rl4llm.checks import UsageError


def check_extra() -> None:
    """Raise if a library of the extra `report` is missing.

    Raises:
        UsageError: Naming what is missing and the extra.
    """
    missing = [name for name in ("scipy", "pandas", "pyarrow") if find_spec(name) is None]
    if missing:
        raise UsageError(f"report: {', '.join(missing)} cannot be imported; run pip install 'rl4llm[report]'.")
