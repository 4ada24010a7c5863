"""A predicted peak of memory is that of the run."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_plan_is_within_15_percent_of_the_measured_peak(tmp_path):
    out = tmp_path / "memory.json"
    command = [sys.executable, "bench/memory.py", "--case=asyppo", f"--out={out}"]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(out.read_text())["cases"]["asyppo"]
    assert 0.85 <= found["predicted"] / found["measured"] <= 1.15
