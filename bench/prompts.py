"""A prompt computed once, and tokens of a pass: forward and backward of the embedded models.

    OMP_NUM_THREADS=1 python bench/prompts.py [--repeats 9] [--out prompts.json]

The first table compares whole rows with shared prompts; the second cuts the same rows into larger and larger passes.
All ways alternate in one process; seconds are CPU seconds of it, medians over the repeats.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import PreTrainedModel

from rl4llm.models import load_backbone
from rl4llm.models.prefixes import Sequences, distinct_prompts, states_by_rows, states_shared

PASSES = (512, 1024, 2048, 4096, 8192, 16384)  # tokens
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


def seconds_in_passes(trunk: PreTrainedModel, batch: Sequences, tokens: int) -> float:
    """CPU seconds of forward and backward passes over whole rows, of at most so many tokens each."""
    rows = max(1, tokens // (batch.prompt_ids.shape[1] + batch.response_ids.shape[1] - 1))
    began = time.process_time()
    for piece in zip(*(field.split(rows) for field in batch), strict=True):
        states_by_rows(trunk, Sequences(*piece)).sum().backward()
    spent = time.process_time() - began
    trunk.zero_grad()
    return spent


def passes(repeats: int) -> list[dict[str, object]]:
    """Print and return the time of a token for passes of several sizes."""
    trunk, found = load_backbone("rl4llm/digits"), []
    print("\n| rows of | " + " | ".join(f"{tokens} in a pass" for tokens in PASSES) + " |")
    print("|---|" + "---|" * len(PASSES))
    for length, time_steps in ((24, 17), (65, 64)):
        batch = sequences(16, 16, length, time_steps)
        total = len(batch.prompt_ids) * (length + time_steps - 1)
        each = [[seconds_in_passes(trunk, batch, tokens) for tokens in PASSES] for _ in range(repeats)]
        micro = [1e6 * statistics.median(column) / total for column in zip(*each, strict=True)]
        print(f"| {length + time_steps - 1} | " + " | ".join(f"{one:.0f}" for one in micro) + " |", flush=True)
        found.append({"length": length + time_steps - 1, "microseconds": dict(zip(PASSES, micro, strict=True))})
    return found


def main() -> None:
    """Print the tables and write the numbers."""
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
        json.dump({"torch": torch.__version__, "runs": found, "passes": passes(options.repeats)}, file, indent=1)


if __name__ == "__main__":
    main()
