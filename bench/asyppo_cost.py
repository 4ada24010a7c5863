"""Measures what a rollout batch of some arms of the AsyPPO study costs, in processor time, and writes it on the page.

    python -m bench.asyppo_cost --out=docs/study/cost.json     # measures, a few minutes
    python -m bench.asyppo_cost                                                  # the table from docs/study/cost.json

Processor time does not depend on what else the machine does, while the minutes of the study's runs do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer

from bench.asyppo_study import FOLDER, PAGE, filled
from bench.ending import end_in_one_line
from rl4llm.checks import UsageError
from rl4llm.studies import study_arms
from rl4llm.studies.tables import markdown_table

ROOT = Path(__file__).parents[1]
DATA = FOLDER / "cost.json"
STUDY = ROOT / "recipes/configs/asyppo_study.yaml"
ARMS = ("asyppo", "ppo", "symmetric critic", "grpo", "one critic", "four critics", "one pass", "eight passes")
BATCHES, WARM = 7, 2  # rollout batches of a run, and how many of the first are left out


class ProcessorSeconds(Callback):
    """Writes the processor time of every rollout batch into a file at the end of training.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path, self.began = Path(path), 0.0
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the time."""
        self.began = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep how long the batch took."""
        self.seconds.append(time.process_time() - self.began)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self.path.write_text(json.dumps(self.seconds), encoding="utf-8")


def measured(names: Sequence[str]) -> dict[str, list[float]]:
    """Run some arms for a few rollout batches, one after the other, and return the seconds of each batch.

    Raises:
        UsageError: If a run fails.
    """
    study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    arms = {arm.name: arm for arm in study_arms([study["recipe"]], study["arms"], {}, study["flags"])}
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seconds.json"
            own = [f"--trainer.max_steps={BATCHES}", "--trainer.limit_val_batches=0", "--seed_everything=0"]
            own += ["--trainer.callbacks=bench.asyppo_cost.ProcessorSeconds", f"--trainer.callbacks.path={path}"]
            own += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
            words = [sys.executable, f"recipes/{arms[name].recipe}.py", "fit", *arms[name].flags, *own]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode or not path.is_file():
                raise UsageError(f"cost: arm '{name}' failed: {done.stderr.strip().splitlines()[-1:]}")
            found[name] = json.loads(path.read_text(encoding="utf-8"))[WARM:]
            print(f"{name}: {median(found[name]):.2f} s", file=sys.stderr, flush=True)
    return found


def cost_table(seconds: Mapping[str, Sequence[float]]) -> str:
    """Return the processor time of each arm, alone and relative to the first one."""
    first = median(next(iter(seconds.values())))
    rows = [
        [arm, f"{median(own):.2f}", f"{min(own):.2f} to {max(own):.2f}", f"× {median(own) / first:.2f}"]
        for arm, own in seconds.items()
    ]
    heads = ("arm", "processor seconds per rollout batch", f"range of {BATCHES - WARM} batches", "relative")
    return markdown_table(heads, rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure where a file is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure, and write the seconds into this file")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose section is replaced")
    options = parser.parse_args(arguments)
    data = options.page.parent / FOLDER.name / DATA.name
    if options.out is not None:
        options.out.write_text(json.dumps(measured(ARMS), indent=1) + "\n", encoding="utf-8")
    if not data.is_file():
        raise UsageError(f"cost: '{data}' does not exist; measure with --out={data}.")
    table = cost_table(json.loads(data.read_text(encoding="utf-8")))
    options.page.write_text(filled(options.page.read_text(encoding="utf-8"), {"cost": table}), encoding="utf-8")


if __name__ == "__main__":
    end_in_one_line(main)
