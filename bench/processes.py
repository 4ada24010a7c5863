"""Measurements that each run in a process of their own, so that peak memory is that of one measurement."""

import json
import resource
import subprocess
import sys
from typing import Any


def peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_process(script: str, *options: str) -> Any:
    """Run a script with the given options and return the JSON that its last line holds."""
    done = subprocess.run([sys.executable, script, *options], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])
