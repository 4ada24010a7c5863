"""Seconds of one step of a recipe, measured from outside, and the arithmetic of its passes."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from devices import Device
from long_prompts import LongPrompts
from random_models import save
from transformers import PreTrainedConfig

BENCH = Path(__file__).parent
RECIPES = {
    "grpo": ["grpo"],
    "asyppo": ["asyppo"],
    "asyppo, one critic epoch": ["asyppo", "--model.critic_updates.epochs=1"],
}
EMBEDDED = {"policy": 592_960, "critic": 217_184}  # weights of the embedded models
STEPS = {"cpu": (3, 23), "cuda": (3, 13)}


def operations(policy: int, critic: int) -> dict[str, float]:
    """Return the operations per trained token of a recipe's passes over those of GRPO's.

    A forward pass takes two operations per weight, a forward and backward pass six. GRPO samples and updates. AsyPPO
    also computes two critics' values, and each critic learns from half of the rows in each of its epochs.
    """
    both, one = (1 + 2 * (2 + 6 * epochs / 2) * critic / ((2 + 6) * policy) for epochs in (2, 1))
    return dict(zip(RECIPES, (1.0, both, one), strict=True))


def gpu_options(folder: Path, policy: PreTrainedConfig, critic: PreTrainedConfig) -> dict[str, list[str]]:
    """Write both models and prompts of 128 tokens; return the options with which each recipe trains them on a GPU."""
    prompts = LongPrompts(128).examples("train")
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"prompt": one.prompt, "answer": ""}) + "\n" for one in prompts)
    )
    common = [
        "--data.task=JsonLines",
        f"--data.task.train={folder / 'train.jsonl'}",
        "--data.task.reward=long_prompts.lottery",
        "--data.prompts_per_step=16",
        f"--model.policy={save(policy, folder / 'policy')}",
        "--model.responses_per_prompt=8",
        "--model.sampling.max_response_tokens=256",
        "--trainer.accelerator=gpu",
        "--trainer.devices=1",
        "--trainer.precision=bf16-mixed",
    ]
    return {"grpo": common, "asyppo": [*common, f"--model.critics.model={save(critic, folder / 'critic')}"]}


def step_seconds(device: Device, recipe: str, *options: str) -> float:
    """Return the seconds of a step: a long run less a short one, both without validation, over the steps between."""
    fixed = ["--trainer.val_check_interval=1000", "--trainer.limit_val_batches=0", *options]
    few, many = STEPS[device.name]
    spent = [_run(device, recipe, f"--trainer.max_steps={steps}", *fixed) for steps in (few, many)]
    return (spent[1] - spent[0]) / (many - few)


def _run(device: Device, recipe: str, *options: str) -> float:
    """Return the CPU seconds of a run; on a GPU, seconds of the clock."""
    script = BENCH.parent / "recipes" / f"{recipe}.py"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), "fit", f"--trainer.default_root_dir={folder}", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    if device.is_gpu:
        return time.perf_counter() - began
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def table(runs: Mapping[str, Sequence[float]], counts: Mapping[str, float], unit: str) -> str:
    """Return the Markdown table of the medians."""
    lines = [f"| recipe | {unit} per step | times GRPO's | operations, times GRPO's |", "|---|---|---|---|"]
    base = statistics.median(runs["grpo"])
    for name, times in runs.items():
        median = statistics.median(times)
        lines.append(f"| {name} | {median:.3f} | {median / base:.2f} | {counts[name]:.2f} |")
    return "\n".join(lines)
