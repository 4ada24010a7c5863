"""Parts are importable without what only loops, models and tests need."""

import subprocess
import sys

HEAVY = {"lightning", "transformers", "hypothesis", "torchmetrics", "matplotlib", "jsonargparse"}
HEAVY |= {"trl", "verl", "openrlhf", "ray"}  # on the other side of the bridges
LIGHT = ("masked", "log_probs", "advantages", "gates", "objectives", "regularizers", "critics")
LIGHT += ("corrections", "replay", "segments", "rewards", "citations")
LIGHT += ("bridges.trl", "bridges.verl", "bridges.openrlhf")
PROBE = """
import importlib, sys
for name in {light}:
    importlib.import_module("rl4llm." + name)
    print(name, *sorted({heavy} & set(sys.modules)))
"""


def test_importing_a_part_loads_only_torch():
    # In a process of its own: this one has loaded everything. The first line with a second word names the culprit.
    code = PROBE.format(light=LIGHT, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == list(LIGHT)
