"""Compares what two runs have logged, bit for bit, apart from times.

python -m bench.same_numbers runs/study/.../metrics.csv runs/again/asyppo/version_0/metrics.csv
"""

import argparse
import sys
from pathlib import Path

import pandas

TIMES = r"^(?:time/|train/tokens_per_second)"


def differing(first: Path, second: Path) -> tuple[int, list[str]]:
    """Return how many numbers two `metrics.csv` hold, and where they differ.

    Args:
        first: The file of one run.
        second: The file of the other.
    """
    tables = [pandas.read_csv(path, dtype=str) for path in (first, second)]
    kept = [table.loc[:, ~table.columns.str.contains(TIMES)] for table in tables]
    if set(kept[0]) != set(kept[1]) or len(kept[0]) != len(kept[1]):
        only = set(kept[0]) ^ set(kept[1])
        return 0, [f"metrics {sorted(only)}" if only else f"{len(kept[0])} against {len(kept[1])} rows"]
    one, other = kept[0], kept[1][list(kept[0])]
    unequal = (one != other) & ~(one.isna() & other.isna())
    places = [f"{name} at step {one['step'][row]}" for name in one for row in unequal.index[unequal[name]]]
    return int(one.notna().sum().sum()), places


def main(arguments: list[str] | None = None) -> None:
    """Say whether the numbers are the same; end with status 1 if they are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args(arguments)
    count, places = differing(options.first, options.second)
    if places:
        sys.exit(f"error: {len(places)} differ, the first of them {places[0]}")
    print(f"all {count} numbers are the same")


if __name__ == "__main__":
    main()
