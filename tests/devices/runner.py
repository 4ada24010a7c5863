"""Runs recipes one after another, as one rank of several, each in a process of its own: `python runner.py jobs.json`.

The processes are forks of this one, which has imported the library and done nothing else: a run has a process to
itself, as it has for a user, and imports cost once.

A job says the recipe, its command line and where rank 0 leaves what the run showed: every logged number of every step,
the evaluations, and all parameters.
"""

import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
LATE = ["pandas", "pyarrow.parquet", "torch.utils.tensorboard", "rl4llm.cli"]  # what a run imports as it goes


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


def run_and_leave(job: dict) -> NoReturn:
    """Run a job in a fork, and end it without the seconds in which the interpreter takes itself apart."""
    status = 1
    try:
        run(job)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        status = 0
    except SystemExit as ending:
        print(*ending.args, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    faulthandler.enable()
    port, jobs = int(os.environ.get("MASTER_PORT", 0)), json.loads(Path(sys.argv[1]).read_text())
    for module in [*LATE, *{f"recipes.{job['recipe']}" for job in jobs}]:
        importlib.import_module(module)
    gc.freeze()  # or the collector of every fork would copy all memory that they share
    for index, job in enumerate(jobs):
        os.environ["MASTER_PORT"] = str(port + index)  # a store of its own: a rank may be late in leaving the last one
        child = os.fork()
        if not child:
            run_and_leave(job)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended:
            sys.exit(f"{job['recipe']} ended with {ended}")


if __name__ == "__main__":
    main()
