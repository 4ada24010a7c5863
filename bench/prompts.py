"""A prompt computed once: forward and backward of the embedded models, rows as a whole against shared prompts.

    OMP_NUM_THREADS=1 python bench/prompts.py [--repeats 9] [--out prompts.json]

Both ways alternate in one process; seconds are CPU seconds of it, medians over the repeats.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import PreTrainedModel

from rl4llm.models import load_backbone
from rl4llm.models.prefixes import Sequences, distinct_prompts, states_by_rows, states_shared

CASES = {  # prompts, responses to each, prompt tokens, response tokens
    "a rollout batch": (16, 8, 23, 16),
    "four prompts of it": (4, 8, 23, 16),
    "prompts of 64": (8, 8, 64, 16),
    "prompts of 128, responses of 32": (8, 8, 128, 32),
    "prompts of 256, responses of 128": (2, 8, 256, 128),
}


def sequences(prompts: int, copies: int, length: int, time_steps: int) -> Sequences:
    """Responses of equal length to prompts of equal length."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 14, (prompts, length), generator=random).repeat_interleave(copies, 0)
    responses = torch.randint(1, 14, (prompts * copies, time_steps), generator=random)
    return Sequences(ids, torch.ones_like(ids, dtype=torch.bool), responses)


def seconds(trunk: PreTrainedModel, batch: Sequences, share: bool) -> float:
    """CPU seconds of a forward and a backward pass."""
    began = time.process_time()
    if share:
        states = states_shared(trunk, batch, distinct_prompts(batch.prompt_ids, batch.prompt_mask))
    else:
        states = states_by_rows(trunk, batch)
    states.sum().backward()
    spent = time.process_time() - began
    trunk.zero_grad()
    return spent


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", default="prompts.json")
    options = parser.parse_args()
    print("| model | case | tokens, rows | tokens, shared | ms, rows | ms, shared | ratio |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for name in ("rl4llm/digits", "rl4llm/digits-critic"):
        trunk = load_backbone(name)
        for case, (prompts, copies, length, steps) in CASES.items():
            batch, rows = sequences(prompts, copies, length, steps), prompts * copies
            both = [[seconds(trunk, batch, share) for share in (False, True)] for _ in range(options.repeats)]
            whole, shared_ = (statistics.median(column) for column in zip(*both, strict=True))
            counts = rows * (length + steps - 1), prompts * length + rows * (steps - 1)
            numbers = f"{counts[0]} | {counts[1]} | {1e3 * whole:.0f} | {1e3 * shared_:.0f} | {whole / shared_:.2f}"
            print(f"| {name} | {case} | {numbers} |", flush=True)
            found.append({"model": name, "case": case, "tokens": counts, "seconds": (whole, shared_)})
    with open(options.out, "w") as file:
        json.dump({"torch": torch.__version__, "runs": found}, file, indent=1)


if __name__ == "__main__":
    main()
