"""Writes the tables and figures of the page on the AsyPPO study from what its runs have left.

    rl4llm report asyppo_study.yaml                                    # makes the runs; with --run=false it makes none
    python -m bench.asyppo_study runs/asyppo_study/metrics.parquet     # from the runs: data file, tables and figures
    python -m bench.asyppo_study                                       # tables and figures from the data file alone

The data file holds the numbers that the page rests on. Arms and seeds that have not finished are named on the page.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from bench.asyppo_claims import ACCURACY, CLAIMS, MEMORY, MINUTES
from bench.asyppo_figures import write_figures
from bench.asyppo_results import Results
from bench.asyppo_tables import afterwards_table, arms_table, claims_table, coverage, settings_table
from bench.ending import end_in_one_line
from rl4llm.checks import UsageError
from rl4llm.studies.records import write_records

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FOLDER = DOCS / "asyppo-study.md", DOCS / "study"
DATA = FOLDER / "asyppo_study.parquet"
CLAIMED = {claim.measure.metric for claims in CLAIMS.values() for claim in claims}
METRICS = sorted({ACCURACY, MINUTES.metric, MEMORY.metric} | CLAIMED)


def sections(results: Results) -> dict[str, str]:
    """Return what stands between the markers of the page, by marker."""
    return {
        "coverage": coverage(results),
        "claims": claims_table(results),
        "afterwards": afterwards_table(results),
        "arms": arms_table(results),
        "settings": settings_table(results),
    }


def filled(page: str, contents: Mapping[str, str]) -> str:
    """Return the page with each content between its two markers.

    Args:
        page: Markdown with the comments `<!-- name -->` and `<!-- end of name -->`.
        contents: What stands between them, by name.

    Raises:
        UsageError: If a marker is missing.
    """
    for name, content in contents.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise UsageError(f"study: the page has no '{start}' ... '{end}'; write both comments once.")
        between = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        page = between.sub(lambda found, text=f"{start}\n\n{content}\n\n{end}": text, page)
    return page


def main(arguments: list[str] | None = None) -> None:
    """Write the data file, the figures and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="?", default=DATA, help="metrics.parquet of the study")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose sections are replaced")
    options = parser.parse_args(arguments)
    folder = options.page.parent / FOLDER.name
    results = Results.read(options.numbers).only(METRICS)
    page = filled(options.page.read_text(encoding="utf-8"), sections(results))
    write_figures(results, folder)
    if options.numbers.resolve() != (folder / DATA.name).resolve():
        write_records(results.table, folder / DATA.name)
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    end_in_one_line(main)
