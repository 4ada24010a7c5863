"""Ensembles of critics: one batched call or one after another, peak memory, and AsyPPO's step against GRPO's.

    OMP_NUM_THREADS=1 python bench/ensembles.py [--repeats 15] [--runs 3] [--out ensembles.json]
    python bench/ensembles.py --device=cuda

Seconds are CPU seconds, medians over repeats in which the ways alternate. Each case runs in a process of its own, so
that its peak memory is its own. On a GPU seconds are those of the clock; the symmetric critic and the policy are a
Qwen3 of half a billion random weights, and a mini-critic has half its width and three quarters of its layers.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from devices import Device, add_device, chosen
from processes import in_process
from prompts import sequences
from random_models import product_weights, qwen3_half_billion, save
from recipe_steps import EMBEDDED, RECIPES, gpu_options, operations, step_seconds, table
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import AdamW
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from rl4llm.critics import ValueModel
from rl4llm.models import load_backbone
from rl4llm.models.prefixes import Sequences, distinct_prompts, prefix_inputs, states_by_rows, states_shared

SIZES = {"symmetric": (1, 512, 1536, 9, 4), "mini": (2, 256, 768, 7, 2)}  # critics, width, feed-forward, layers, heads
TOKENS = {"cpu": (23, 16, 256), "cuda": (128, 256, 512)}  # prompt, response, and response of the learning steps


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
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril().expand(rows, 1, -1, -1)

    def states(weight: object, buffer: object, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        options = {"input_ids": ids, "position_ids": places, "attention_mask": causal, "use_cache": False}
        return functional_call(trunks[0], (weight, buffer), kwargs=options).last_hidden_state

    def run() -> None:
        vmap(states)(weights, buffers, ids, places).sum().backward()
        for weight in weights.values():
            weight.grad = None

    return run


def shape(size: str, device: Device) -> tuple[int, Qwen3Config]:
    """Return the number of critics of a size and their configuration."""
    if device.is_gpu:
        return (1, qwen3_half_billion()) if size == "symmetric" else (2, mini_critic())
    critics, width, feed_forward, layers, heads = SIZES[size]
    sizes = {"hidden_size": width, "intermediate_size": feed_forward, "num_hidden_layers": layers}
    return critics, Qwen3Config(
        vocab_size=2374, num_attention_heads=heads, num_key_value_heads=1, head_dim=128, **sizes
    )


def mini_critic() -> Qwen3Config:
    """Return the shape of a mini-critic: half the width and three quarters of the layers, much as 1.7B to 8B."""
    config = qwen3_half_billion(layers=18)
    config.hidden_size, config.intermediate_size, config.num_attention_heads = 448, 2432, 8
    return config


def critic_trunk(device: Device) -> PreTrainedModel:
    """Return the model under a critic."""
    if not device.is_gpu:
        return load_backbone("rl4llm/digits-critic").to(device.dtype)
    with tempfile.TemporaryDirectory() as folder:
        return load_backbone(save(mini_critic(), Path(folder))).to(device.name, device.dtype)


def batching(device: Device, critics: int, prompts: int, repeats: int) -> list[float]:
    """Return the seconds of forward and backward passes: whole rows, shared prompts, one batched call."""
    trunks = [critic_trunk(device) for _ in range(critics)]
    batches = [sequences(prompts, 4, *TOKENS[device.name][:2], device.name) for _ in range(critics)]
    joint = together(trunks, batches)
    ways = [lambda: in_turn(trunks, batches, False), lambda: in_turn(trunks, batches, True), joint]
    both = [[_seconds(way, device) for way in ways] for _ in range(repeats + 1)][1:]  # the first is a warm-up
    return [statistics.median(column) for column in zip(*both, strict=True)]


def _seconds(run: Callable[[], None], device: Device) -> float:
    began = device.clock()
    run()
    return device.clock() - began


def learning_steps(models: list[ValueModel], batch: Sequences, at_once: int, device: Device) -> None:
    """Let each critic make two learning steps on its own part of the responses."""
    optimizers = [AdamW([w for w in model.parameters() if w.requires_grad]) for model in models]
    for _ in range(2):
        for index, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            own = Sequences(*(tensor[index :: len(models)] for tensor in batch))
            for rows in zip(*(tensor.split(at_once) for tensor in own), strict=True):
                with device.mixed_precision():
                    values = model.head(states_by_rows(model.backbone, Sequences(*rows)))
                values.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def memory(device: Device, size: str, at_once: int) -> dict[str, int]:
    """Return the weights of all critics and the bytes that two learning steps of each add at their peak."""
    critics, config = shape(size, device)
    batch = sequences(16, 1, 1, TOKENS[device.name][2], device.name)
    before = device.peak_bytes()
    models = [ValueModel(Qwen3Model(config)).to(device.name) for _ in range(critics)]
    learning_steps(models, batch, at_once, device)
    weights = sum(weight.numel() for model in models for weight in model.parameters())
    return {"weights": weights, "bytes": device.peak_bytes() - before}


def print_calls(device: Device, repeats: int) -> dict[str, list[float]]:
    """Print the table of batched and separate calls."""
    print("| critics | prompts | ms, whole rows in turn | ms, shared prompts in turn | ms, one batched call |")
    print("|---|---|---|---|---|")
    found = {}
    for critics, prompts in ((2, 4), (2, 16), (4, 4), (4, 16)):
        case = f"{critics},{prompts}"
        found[case] = in_process(__file__, f"--case=calls,{case}", f"--repeats={repeats}", *device.flags())
        print(f"| {critics} | {prompts} |", " | ".join(f"{1e3 * each:.1f}" for each in found[case]), "|", flush=True)
    return found


def print_memory(device: Device) -> dict[int, list[dict[str, int]]]:
    """Print the table of peak memory."""
    print("\n| responses at once | MiB, symmetric critic | MiB, two mini-critics | ratio |\n|---|---|---|---|")
    found = {}
    for at_once in (1, 4, 8, 16):
        found[at_once] = [in_process(__file__, f"--case={size},{at_once}", *device.flags()) for size in SIZES]
        large, small = (each["bytes"] for each in found[at_once])
        print(f"| {at_once} | {large / 2**20:.0f} | {small / 2**20:.0f} | {small / large:.2f} |", flush=True)
    return found


def print_steps(device: Device, runs: int) -> dict[str, dict[str, object]]:
    """Print the table of the recipes' steps."""
    steps: dict[str, list[float]] = {name: [] for name in RECIPES}
    counts = operations(**(_gpu_weights() if device.is_gpu else EMBEDDED))
    with tempfile.TemporaryDirectory() as folder:
        more = gpu_options(Path(folder), qwen3_half_billion(), mini_critic()) if device.is_gpu else {}
        for _ in range(runs):
            for name, (recipe, *options) in RECIPES.items():
                steps[name].append(step_seconds(device, recipe, *options, *more.get(recipe, [])))
    print("\n" + table(steps, counts, "s" if device.is_gpu else "CPU s"))
    return {"steps": steps, "operations": counts}


def _gpu_weights() -> dict[str, int]:
    with torch.device("meta"):
        models = {"policy": Qwen3ForCausalLM(qwen3_half_billion()), "critic": Qwen3Model(mini_critic())}
    return {role: product_weights(model) for role, model in models.items()}


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", default="ensembles.json")
    add_device(parser)
    options = parser.parse_args()
    device = chosen(options)
    if options.case:
        kind, *numbers = options.case.split(",")
        sizes = list(map(int, numbers))
        calls = kind == "calls"
        print(json.dumps(batching(device, *sizes, options.repeats) if calls else memory(device, kind, *sizes)))
        return
    found = {"torch": torch.__version__, "device": str(device)}
    found |= {"calls": print_calls(device, options.repeats), "memory": print_memory(device)}
    found |= print_steps(device, options.runs)
    with open(options.out, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
