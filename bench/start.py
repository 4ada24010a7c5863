"""How long a start takes: imports of the parts over torch alone, help, the first line of output and the first step.

    OMP_NUM_THREADS=1 python bench/start.py [--repeats 7] [--out start.json]

Every measurement is a process of its own; the commands take turns, and `import torch` is one of them. Times are
medians over the repeats: CPU seconds of the process, and wall seconds, which other jobs on the machine lengthen.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning import Callback

ROOT = Path(__file__).parents[1]
BASELINE = "import torch"
FAMILIES = ("advantages", "gates", "objectives", "critics", "testing")
RECIPE = [sys.executable, str(ROOT / "recipes/asyppo.py")]
STEP = ["--trainer.callbacks+=bench.start.FirstStep", "--trainer.enable_progress_bar=false"]
COMMANDS = {
    BASELINE: [sys.executable, "-c", "import torch"],
    **{f"import rl4llm.{name}": [sys.executable, "-c", f"import torch, rl4llm.{name}"] for name in FAMILIES},
    "import rl4llm.testing, a law": [sys.executable, "-c", "import torch; from rl4llm.testing import check"],
    "import lightning.pytorch.cli": [sys.executable, "-c", "import lightning.pytorch.cli"],
    "asyppo.py --help": [*RECIPE, "--help"],
    "asyppo.py fit --help": [*RECIPE, "fit", "--help"],
    "asyppo.py fit, to the first optimizer step": [*RECIPE, "fit", *STEP],
}


class FirstStep(Callback):
    """Ends the process at its first optimizer step."""

    def on_before_optimizer_step(self, *_: Any) -> None:
        os._exit(0)


def measure(command: list[str], folder: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds, and wall seconds to the first output of one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, began = os.times(), time.perf_counter()
    shown = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=environment, **shown) as process:  # type: ignore[call-overload]
        process.stdout.read(1)
        first = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {process.returncode}.")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, time.perf_counter() - began, first


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="start.json")
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for name, command in COMMANDS.items():
                taken[name].append(measure(command, folder))
    found = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
    print("| command | CPU s | over torch, CPU s | wall s | first output, wall s |\n|---|---|---|---|---|")
    for name, (spent, wall, first) in found.items():
        says = f"{first:.2f}" if name.startswith("asyppo") else ""
        print(f"| `{name}` | {spent:.2f} | {spent - found[BASELINE][0]:.2f} | {wall:.2f} | {says} |")
    Path(options.out).write_text(json.dumps({"seconds": found, "each": taken}, indent=1))


if __name__ == "__main__":
    main()
