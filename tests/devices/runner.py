"""Runs recipes one after another in this process, as one rank of several: `python runner.py jobs.json`.

A job says the recipe, its command line and where rank 0 leaves what the run showed: every logged number of every step,
the evaluations, and all parameters.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))


def run(job: dict) -> None:
    from rl4llm.algorithms.strategy import whole_weights
    from rl4llm.cli import RecipeCLI
    from rl4llm.data import PromptData

    recipe = getattr(importlib.import_module(f"recipes.{job['recipe']}"), job["recipe"])
    started = time.time()
    cli = RecipeCLI(recipe, PromptData, args=job["args"], data_defaults=job.get("data", {}), max_steps=3)
    module = cli.model
    with whole_weights(module):
        named = module.named_parameters(remove_duplicate=False)  # what is sharded is no longer shared
        parameters = {n: p.detach().clone() for n, p in named if not n.startswith("reference")}
    if cli.trainer.is_global_zero:
        shown = {"training": cli.history.training, "validation": cli.history.validation, "folder": str(cli.run_folder)}
        state = {name: value for name, value in module.state_dict().items() if name.endswith("_extra_state")}
        torch.save({**shown, "parameters": parameters, "state": state}, job["out"])
        print(f"{job['recipe']} {job['out']} {time.time() - started:.1f} s", flush=True)


def main() -> None:
    port = int(os.environ.get("MASTER_PORT", 0))
    for index, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["MASTER_PORT"] = str(port + index)  # a store of its own: a rank may be late in leaving the last one
        run(job)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
