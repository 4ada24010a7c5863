"""Ensembles of critics: one batched call or one after another, peak memory, and AsyPPO's step against GRPO's.

    OMP_NUM_THREADS=1 python bench/ensembles.py [--repeats 15] [--runs 3] [--out ensembles.json]

Seconds are CPU seconds, medians over repeats in which the ways alternate. Each case runs in a process of its own, so
that its peak memory is its own.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from processes import in_process, peak_bytes
from prompts import sequences
from recipe_steps import RECIPES, operations, step_seconds, table
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import AdamW
from transformers import PreTrainedModel, Qwen3Config, Qwen3Model

from rl4llm.critics import ValueModel
from rl4llm.models import load_backbone
from rl4llm.models.prefixes import Sequences, distinct_prompts, prefix_inputs, states_by_rows, states_shared

SIZES = {"symmetric": (1, 512, 1536, 9, 4), "mini": (2, 256, 768, 7, 2)}  # critics, width, feed-forward, layers, heads


def in_turn(trunks: list[PreTrainedModel], batches: list[Sequences], share: bool) -> None:
    """Run forward and backward passes of one critic after another."""
    for trunk, batch in zip(trunks, batches, strict=True):
        prompts = distinct_prompts(batch.prompt_ids, batch.prompt_mask)
        states = states_shared(trunk, batch, prompts) if share else states_by_rows(trunk, batch)
        states.sum().backward()
        trunk.zero_grad()


def together(trunks: list[PreTrainedModel], batches: list[Sequences]) -> Callable[[], None]:
    """Return a function that runs all critics in one batched call."""
    weights, buffers = stack_module_state(trunks)
    inputs = [prefix_inputs(batch) for batch in batches]
    ids, places = (torch.stack([each[name] for each in inputs]) for name in ("input_ids", "position_ids"))
    rows, length = ids.shape[1:]  # a padding mask would be read during the call, which vmap does not allow
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, -1, -1)

    def states(weight: object, buffer: object, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        options = {"input_ids": ids, "position_ids": places, "attention_mask": causal, "use_cache": False}
        return functional_call(trunks[0], (weight, buffer), kwargs=options).last_hidden_state

    def run() -> None:
        vmap(states)(weights, buffers, ids, places).sum().backward()
        for weight in weights.values():
            weight.grad = None

    return run


def batching(critics: int, prompts: int, repeats: int) -> list[float]:
    """Return the CPU seconds of forward and backward passes: whole rows, shared prompts, one batched call."""
    trunks = [load_backbone("rl4llm/digits-critic") for _ in range(critics)]
    batches = [sequences(prompts, 4, 23, 16) for _ in range(critics)]
    joint = together(trunks, batches)
    ways = [lambda: in_turn(trunks, batches, False), lambda: in_turn(trunks, batches, True), joint]
    both = [[_seconds(way) for way in ways] for _ in range(repeats + 1)][1:]  # the first is a warm-up
    return [statistics.median(column) for column in zip(*both, strict=True)]


def _seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def learning_steps(models: list[ValueModel], at_once: int) -> None:
    """Let each critic make two learning steps on its own part of 16 responses of 256 tokens."""
    optimizers = [AdamW([w for w in model.parameters() if w.requires_grad]) for model in models]
    batch = sequences(16, 1, 1, 256)
    for _ in range(2):
        for index, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            own = Sequences(*(tensor[index :: len(models)] for tensor in batch))
            for rows in zip(*(tensor.split(at_once) for tensor in own), strict=True):
                model.head(states_by_rows(model.backbone, Sequences(*rows))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def memory(size: str, at_once: int) -> dict[str, int]:
    """Return the weights of all critics and the bytes that two learning steps of each add at their peak."""
    critics, width, feed_forward, layers, heads = SIZES[size]
    shape = {"hidden_size": width, "intermediate_size": feed_forward, "num_hidden_layers": layers}
    config = Qwen3Config(vocab_size=2374, num_attention_heads=heads, num_key_value_heads=1, head_dim=128, **shape)
    before, models = peak_bytes(), [ValueModel(Qwen3Model(config)) for _ in range(critics)]
    learning_steps(models, at_once)
    weights = sum(weight.numel() for model in models for weight in model.parameters())
    return {"weights": weights, "bytes": peak_bytes() - before}


def print_calls(repeats: int) -> dict[str, list[float]]:
    """Print the table of batched and separate calls."""
    print("| critics | prompts | ms, whole rows in turn | ms, shared prompts in turn | ms, one batched call |")
    print("|---|---|---|---|---|")
    found = {}
    for critics, prompts in ((2, 4), (2, 16), (4, 4), (4, 16)):
        case = f"{critics},{prompts}"
        found[case] = in_process(__file__, f"--case=calls,{case}", f"--repeats={repeats}")
        print(f"| {critics} | {prompts} |", " | ".join(f"{1e3 * each:.1f}" for each in found[case]), "|", flush=True)
    return found


def print_memory() -> dict[int, list[dict[str, int]]]:
    """Print the table of peak memory."""
    print("\n| responses at once | MiB, symmetric critic | MiB, two mini-critics | ratio |\n|---|---|---|---|")
    found = {}
    for at_once in (1, 4, 8, 16):
        found[at_once] = [in_process(__file__, f"--case={size},{at_once}") for size in SIZES]
        large, small = (each["bytes"] for each in found[at_once])
        print(f"| {at_once} | {large / 2**20:.0f} | {small / 2**20:.0f} | {small / large:.2f} |", flush=True)
    return found


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", default="ensembles.json")
    options = parser.parse_args()
    if options.case:
        kind, *numbers = options.case.split(",")
        sizes = list(map(int, numbers))
        print(json.dumps(batching(*sizes, options.repeats) if kind == "calls" else memory(kind, *sizes)))
        return
    found = {"torch": torch.__version__, "calls": print_calls(options.repeats), "memory": print_memory()}
    steps = {name: [] for name in RECIPES}
    for _ in range(options.runs):
        for name, call in RECIPES.items():
            steps[name].append(step_seconds(*call))
    print("\n" + table(steps))
    with open(options.out, "w") as file:
        json.dump({**found, "steps": steps, "operations": operations()}, file, indent=1)


if __name__ == "__main__":
    main()
