"""`rl4llm look RUN_FOLDER`: a run as one HTML file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rl4llm.command.arguments import CommandParser


def look_inside(arguments: Sequence[str]) -> int:
    """Write the page of a run and print where it is."""
    options = _parser().parse_args(arguments)
    from rl4llm.look.page import write_page

    path = write_page(options.run, options.out, megabytes=options.megabytes)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser.")
    return 0


def _parser() -> argparse.ArgumentParser:
    what = "Write one HTML file that shows a run, its responses token by token."
    parser = CommandParser("look", "runs/asyppo/version_0 --out look.html", description=what)
    parser.add_argument("run", metavar="RUN_FOLDER", type=Path, help="folder of a run, which may still be going on")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file, or a folder for look.html (default: the run folder)"
    )
    parser.add_argument("--megabytes", type=_positive, default=10.0, help="most of the rows in the page (default: 10)")
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number
