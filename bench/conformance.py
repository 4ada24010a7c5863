"""Which laws public functions of other libraries, and parts of ours, keep: one file of numbers per library, and a page.

    OMP_NUM_THREADS=1 python bench/conformance.py run verl --out verl.json    # in an environment that has verl
    python bench/conformance.py page rl4llm.json verl.json ... --out docs/conformance.md

`VENV=.venv-peers .ci/peers` makes an environment that has all four libraries.
"""

import argparse
import json
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path


def run(library: str, out: Path) -> None:
    """Examine every function of a library and write what was found."""
    warnings.filterwarnings("ignore")
    from conformance_cases import LIBRARIES
    from conformance_parts import EXAMPLES, examine_case

    found = []
    for case in LIBRARIES[library]():
        began = time.process_time()
        found.append(examine_case(case))
        states = [law["status"] for law in found[-1]["laws"].values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("kept", "broken", "not promised"))
        print(f"{case.name}: {counts} ({time.process_time() - began:.1f} s)", flush=True)
    versions = {name: version(name) for name in (library, "torch")}
    out.write_text(
        json.dumps({"library": library, "versions": versions, "examples": EXAMPLES, "cases": found}, indent=1)
    )


def main() -> None:
    """Run one library, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="examine one library")
    running.add_argument("library", choices=("verl", "trl", "openrlhf", "torchrl", "rl4llm"))
    running.add_argument("--out", type=Path, required=True)
    writing = commands.add_parser("page", help="write the page from the files of several runs")
    writing.add_argument("files", type=Path, nargs="+")
    writing.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.command == "run":
        run(options.library, options.out)
    else:
        from conformance_page import page

        options.out.write_text(page([json.loads(path.read_text()) for path in options.files]), encoding="utf-8")


if __name__ == "__main__":
    main()
