"""Critics over one frozen model: peak memory against whole critics, and one pass for all against one after another.

    OMP_NUM_THREADS=1 python bench/adapters.py [--repeats 15] [--rank 8] [--out adapters.json]

Seconds are CPU seconds, medians over repeats in which the ways alternate. Each case runs in a process of its own, so
that its peak memory is its own.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from ensembles import SIZES, learning_steps
from processes import in_process, peak_bytes
from prompts import sequences
from transformers import PreTrainedModel, Qwen3Config, Qwen3Model

from rl4llm.critics import ValueModel
from rl4llm.models import LoRA, load_backbone
from rl4llm.models.adapters import adapter_layers
from rl4llm.models.prefixes import Sequences, states_by_rows
from rl4llm.models.sharing import frozen_twin

KINDS = ("whole", "adapters")


def twins(trunk: PreTrainedModel, critics: int, rank: int) -> list[PreTrainedModel]:
    """Return backbones that share the trunk and have adapters of their own, away from zero."""
    trunk.requires_grad_(False)
    found = [replace(LoRA(rank), seed=seed).wrap(frozen_twin(trunk)) for seed in range(critics)]
    for backbone in found:
        for name, weight in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    return found


def grouped(backbones: list[PreTrainedModel]) -> PreTrainedModel:
    """Return a model that runs the rows of all critics at once: each frozen layer once, the adapters in one batch."""
    together, layers = frozen_twin(backbones[0]), [adapter_layers(each) for each in backbones]
    for name in layers[0]:
        own = [each[name] for each in layers]
        together.get_submodule(name).register_forward_hook(_add_low_rank(own))
    return together


def _add_low_rank(own: list[Any]) -> Callable[..., torch.Tensor]:
    def add(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        down = [layer.lora_A["default"].weight.T for layer in own]
        up = [layer.lora_B["default"].weight.T * layer.scaling["default"] for layer in own]
        rows = inputs[0].reshape(len(own), -1, inputs[0].shape[-1])
        return output + (rows @ torch.stack(down) @ torch.stack(up)).reshape(output.shape)

    return add


def calls(critics: int, rows: int, rank: int, repeats: int) -> list[float]:
    """Return the CPU seconds of values without gradient and of learning passes: in turn and in one pass of each."""
    backbones = twins(load_backbone("rl4llm/digits-critic"), critics, rank)
    together = grouped(backbones)
    batches = [sequences(rows // 4, 4, 23, 16) for _ in range(critics)]
    joint = Sequences(*map(torch.cat, zip(*batches, strict=True)))

    def in_turn(learn: bool) -> torch.Tensor:
        with torch.set_grad_enabled(learn):
            states = [states_by_rows(each, rows) for each, rows in zip(backbones, batches, strict=True)]
            return _backward(torch.cat(states), learn)

    def at_once(learn: bool) -> torch.Tensor:
        with torch.set_grad_enabled(learn):
            return _backward(states_by_rows(together, joint), learn)

    def _backward(states: torch.Tensor, learn: bool) -> torch.Tensor:
        if learn:
            states.sum().backward()
            for each in backbones:
                each.zero_grad()
        return states

    torch.testing.assert_close(in_turn(False), at_once(False))
    ways = [(way, learn) for learn in (False, True) for way in (in_turn, at_once)]
    both = [[_seconds(way, learn) for way, learn in ways] for _ in range(repeats + 1)][1:]  # the first is a warm-up
    return [statistics.median(column) for column in zip(*both, strict=True)]


def _seconds(run: Callable[[bool], torch.Tensor], learn: bool) -> float:
    began = time.process_time()
    run(learn)
    return time.process_time() - began


def memory(kind: str, size: str, critics: int, rank: int) -> dict[str, int]:
    """Return the weights held, those trained, and the bytes that building and two learning steps add at their peak."""
    _, width, feed_forward, layers, heads = SIZES[size]
    shape = {"hidden_size": width, "intermediate_size": feed_forward, "num_hidden_layers": layers}
    config = Qwen3Config(vocab_size=2374, num_attention_heads=heads, num_key_value_heads=1, head_dim=128, **shape)
    before = peak_bytes()
    if kind == "whole":
        backbones = [Qwen3Model(config) for _ in range(critics)]
    else:
        backbones = twins(Qwen3Model(config), critics, rank)
    models = [ValueModel(backbone) for backbone in backbones]
    learning_steps(models, at_once=2)
    held = {weight for model in models for weight in model.parameters()}
    trained = sum(weight.numel() for weight in held if weight.requires_grad)
    return {"weights": sum(weight.numel() for weight in held), "trained": trained, "bytes": peak_bytes() - before}


def print_calls(rank: int, repeats: int) -> dict[str, list[float]]:
    """Print the table of one pass for all critics against one pass after another."""
    print("| critics | rows of each | ms, values in turn | in one pass | ms, learning in turn | in one pass |")
    print("|---|---|---|---|---|---|")
    found = {}
    for critics, rows in ((2, 16), (4, 16), (8, 16), (2, 64), (4, 64)):
        case = f"{critics},{rows}"
        found[case] = in_process(__file__, f"--case=calls,{case}", f"--repeats={repeats}", f"--rank={rank}")
        print(f"| {critics} | {rows} |", " | ".join(f"{1e3 * each:.1f}" for each in found[case]), "|", flush=True)
    return found


def print_memory(rank: int) -> dict[str, list[dict[str, int]]]:
    """Print the table of peak memory."""
    print("\n| shape | critics | M weights, whole | adapters | MiB at the peak, whole | adapters | ratio |")
    print("|---|---|---|---|---|---|---|")
    found = {}
    for size, critics in (("symmetric", 1), ("symmetric", 2), ("mini", 2)):
        case = f"{size},{critics}"
        both = [in_process(__file__, f"--case={kind},{case}", f"--rank={rank}") for kind in KINDS]
        found[case] = both
        weights = " | ".join(f"{each['weights'] / 1e6:.1f}" for each in both)
        peaks = " | ".join(f"{each['bytes'] / 2**20:.0f}" for each in both)
        ratio = both[1]["bytes"] / both[0]["bytes"]
        print(f"| {size} | {critics} | {weights} | {peaks} | {ratio:.2f} |", flush=True)
    return found


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--out", default="adapters.json")
    options = parser.parse_args()
    if options.case:
        kind, one, other = options.case.split(",")
        measured: Any = (
            calls(int(one), int(other), options.rank, options.repeats)
            if kind == "calls"
            else memory(kind, one, int(other), options.rank)
        )
        print(json.dumps(measured))
        return
    found = {"calls": print_calls(options.rank, options.repeats), "memory": print_memory(options.rank)}
    with open(options.out, "w") as file:
        json.dump({"torch": torch.__version__, **found}, file, indent=1)


if __name__ == "__main__":
    main()
