"""CPU seconds of one step of a recipe, measured from outside, and the arithmetic of its passes."""

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RECIPES = {
    "grpo": ["grpo"],
    "asyppo": ["asyppo"],
    "asyppo, one critic epoch": ["asyppo", "--model.critic_updates.epochs=1"],
}
WEIGHTS = {"policy": 592_960, "critic": 217_184}  # of the embedded models


def operations() -> dict[str, float]:
    """Return the operations per trained token of a recipe's passes over those of GRPO's.

    A forward pass takes two operations per weight, a forward and backward pass six. GRPO samples and updates. AsyPPO
    also computes two critics' values, and each critic learns from half of the rows in each of its epochs.
    """
    policy, critic = (2 + 6) * WEIGHTS["policy"], WEIGHTS["critic"]
    both, one = (1 + 2 * (2 + 6 * epochs / 2) * critic / policy for epochs in (2, 1))
    return dict(zip(RECIPES, (1.0, both, one), strict=True))


def step_seconds(recipe: str, *options: str) -> float:
    """Return the CPU seconds of a step: a run of 23 steps less one of 3, both without validation, over 20."""
    fixed = ["--trainer.val_check_interval=1000", "--trainer.limit_val_batches=0", *options]
    spent = [_run(recipe, f"--trainer.max_steps={steps}", *fixed) for steps in (3, 23)]
    return (spent[1] - spent[0]) / 20


def _run(recipe: str, *options: str) -> float:
    """Return the CPU seconds of a run."""
    script = Path(__file__).parents[1] / "recipes" / f"{recipe}.py"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), "fit", f"--trainer.default_root_dir={folder}", *options]
        subprocess.run(command, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def table(runs: dict[str, Sequence[float]]) -> str:
    """Return the Markdown table of the medians."""
    lines = ["| recipe | CPU s per step | times GRPO's | operations, times GRPO's |", "|---|---|---|---|"]
    counts, base = operations(), statistics.median(runs["grpo"])
    for name, times in runs.items():
        median = statistics.median(times)
        lines.append(f"| {name} | {median:.3f} | {median / base:.2f} | {counts[name]:.2f} |")
    return "\n".join(lines)
