"""A prompt computed once, and tokens of a pass: forward and backward of the embedded models.

    OMP_NUM_THREADS=1 python bench/prompts.py [--repeats 9] [--out prompts.json]
    python bench/prompts.py --device=cuda

The first table compares whole rows with shared prompts; the second cuts the same rows into larger and larger passes.
All ways alternate in one process; seconds are CPU seconds of it, medians over the repeats. On a GPU the model is a
Qwen3 of half a billion random weights in bfloat16, and seconds are those of the clock. The share of the peak is that of
the operations on the model's weights, six per weight and token of the pass, in what the same device does in the product
of two square matrices.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from devices import Device, add_device, chosen
from random_models import product_weights, qwen3_half_billion, save
from transformers import PreTrainedModel

from rl4llm.models import load_backbone
from rl4llm.models.prefixes import Sequences, distinct_prompts, states_by_rows, states_shared

PASSES = (512, 1024, 2048, 4096, 8192, 16384)  # tokens
LENGTHS = {"cpu": ((24, 17), (65, 64)), "cuda": ((128, 257),)}  # prompt and response tokens of the rows in passes
EMBEDDED = {  # prompts, responses to each, prompt tokens, response tokens
    "a rollout batch": (16, 8, 23, 16),
    "four prompts of it": (4, 8, 23, 16),
    "prompts of 64": (8, 8, 64, 16),
    "prompts of 128, responses of 32": (8, 8, 128, 32),
    "prompts of 256, responses of 128": (2, 8, 256, 128),
}
HALF_BILLION = {
    "prompts of 128, responses of 256": (4, 8, 128, 256),
    "prompts of 512, responses of 256": (4, 8, 512, 256),
    "prompts of 1024, responses of 128": (4, 8, 1024, 128),
    "prompts of 512, responses of 1024": (1, 8, 512, 1024),
}


def trunks(device: Device) -> dict[str, PreTrainedModel]:
    """Return the models that are measured on a device."""
    if not device.is_gpu:
        return {name: load_backbone(name).to(device.dtype) for name in ("rl4llm/digits", "rl4llm/digits-critic")}
    with tempfile.TemporaryDirectory() as folder:
        trunk = load_backbone(save(qwen3_half_billion(), Path(folder)))
    return {"Qwen3 0.5B": trunk.to(device.name, device.dtype)}


def sequences(prompts: int, copies: int, length: int, time_steps: int, device: str = "cpu") -> Sequences:
    """Responses of equal length to prompts of equal length."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 14, (prompts, length), generator=random).repeat_interleave(copies, 0)
    responses = torch.randint(1, 14, (prompts * copies, time_steps), generator=random)
    parts = ids, torch.ones_like(ids, dtype=torch.bool), responses
    return Sequences(*(part.to(device) for part in parts))


def seconds(trunk: PreTrainedModel, batch: Sequences, share: bool, device: Device) -> float:
    """Seconds of a forward and a backward pass."""
    began = device.clock()
    if share:
        states = states_shared(trunk, batch, distinct_prompts(batch.prompt_ids, batch.prompt_mask))
    else:
        states = states_by_rows(trunk, batch)
    states.sum().backward()
    spent = device.clock() - began
    trunk.zero_grad()
    return spent


def seconds_in_passes(trunk: PreTrainedModel, batch: Sequences, tokens: int, device: Device) -> float:
    """Seconds of forward and backward passes over whole rows, of at most so many tokens each."""
    rows = max(1, tokens // (batch.prompt_ids.shape[1] + batch.response_ids.shape[1] - 1))
    began = device.clock()
    for piece in zip(*(field.split(rows) for field in batch), strict=True):
        states_by_rows(trunk, Sequences(*piece)).sum().backward()
    spent = device.clock() - began
    trunk.zero_grad()
    return spent


def passes(trunk: PreTrainedModel, repeats: int, device: Device) -> list[dict[str, object]]:
    """Print and return the time of a token for passes of several sizes."""
    found = []
    print("\n| rows of | " + " | ".join(f"{tokens} in a pass" for tokens in PASSES) + " |")
    print("|---|" + "---|" * len(PASSES))
    for length, time_steps in LENGTHS[device.name]:
        batch = sequences(16, 16, length, time_steps, device.name)
        total = len(batch.prompt_ids) * (length + time_steps - 1)
        each = [[seconds_in_passes(trunk, batch, tokens, device) for tokens in PASSES] for _ in range(repeats)]
        micro = [1e6 * statistics.median(column) / total for column in zip(*each, strict=True)]
        print(f"| {length + time_steps - 1} | " + " | ".join(f"{one:.0f}" for one in micro) + " |", flush=True)
        found.append({"length": length + time_steps - 1, "microseconds": dict(zip(PASSES, micro, strict=True))})
    return found


def compare(models: dict[str, PreTrainedModel], repeats: int, device: Device) -> list[dict[str, object]]:
    """Print and return the table of whole rows and shared prompts."""
    print("| model | case | tokens, rows | tokens, shared | ms, rows | ms, shared | ratio | shares of the peak |")
    print("|---|---|---|---|---|---|---|---|")
    peak, found = device.operations_per_second(), []
    for name, trunk in models.items():
        seconds_per_token = 6 * product_weights(trunk) / peak
        for case, (prompts, copies, length, steps) in (HALF_BILLION if device.is_gpu else EMBEDDED).items():
            batch, rows = sequences(prompts, copies, length, steps, device.name), prompts * copies
            both = [[seconds(trunk, batch, share, device) for share in (False, True)] for _ in range(repeats + 1)]
            times = [statistics.median(column[1:]) for column in zip(*both, strict=True)]  # the first warms up
            counts = rows * (length + steps - 1), prompts * length + rows * (steps - 1)
            shares = [seconds_per_token * count / spent for count, spent in zip(counts, times, strict=True)]
            cells = [name, case, *counts, *(f"{1e3 * spent:.0f}" for spent in times), f"{times[0] / times[1]:.2f}"]
            print(f"| {' | '.join(map(str, cells))} | {shares[0]:.2f}, {shares[1]:.2f} |", flush=True)
            found.append({"model": name, "case": case, "tokens": counts, "seconds": times, "shares": shares})
    return found


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", default="prompts.json")
    add_device(parser)
    options = parser.parse_args()
    device = chosen(options)
    models = trunks(device)
    found = {"runs": compare(models, options.repeats, device)}
    found["passes"] = passes(next(iter(models.values())), options.repeats, device)
    with open(options.out, "w") as file:
        json.dump({"torch": torch.__version__, "device": str(device), **found}, file, indent=1)


if __name__ == "__main__":
    main()
