"""Rollouts: response tokens per second of `HuggingFaceRollout` and of `transformers.generate` with the same model.

    OMP_NUM_THREADS=1 python bench/rollouts.py [--repeats 5] [--only NAME] [--out rollouts.json]
    python bench/rollouts.py --device=cuda

Both draw eight responses to each prompt at temperature 1 from the whole vocabulary, and both stop a response at the
same end tokens and at the same limit of its prompt. They alternate in one process; seconds are those of its CPUs, on a
GPU those of the clock; numbers are medians over the repeats. The embedded policy writes 13 tokens to every prompt, so
the limits of its second case spread from 2 to 16. The other models are made at random, and a share of their vocabulary
ends a response, so that lengths are geometric. On a GPU the model of half a billion weights is measured. The forward
passes alone are the yardstick: those of the engine's rows with the cache of transformers, with tokens known beforehand
and nothing drawn.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from devices import Device, add_device, chosen
from random_models import qwen3_half_billion
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    Qwen2Config,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rl4llm.data import AbsoluteDifference
from rl4llm.models import Policy
from rl4llm.rollouts import HuggingFaceRollout, Responses, Sampling, encode_prompts, evaluating

COPIES = 8


@dataclass(frozen=True)
class Case:
    """A policy, its prompts, and the maximum number of response tokens of each."""

    policy: Policy
    ids: Tensor
    mask: Tensor
    limits: Tensor


class OwnLimits(StoppingCriteria):
    """Stops every row at the limit of its prompt."""

    def __init__(self, case: Case) -> None:
        self.lengths = case.ids.shape[1] + case.limits.repeat_interleave(COPIES).to(case.ids.device)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Whether each row is full."""
        return self.lengths <= input_ids.shape[1]


def digits(device: Device, least: int = 16) -> Case:
    """32 prompts of the embedded task for the embedded policy, with limits that spread from the least to 16."""
    policy, task = Policy.load("rl4llm/digits").to(device.name, device.dtype), AbsoluteDifference()
    ids, mask = encode_prompts(policy, [example.prompt for example in task.examples("train")[:32]], 16)
    return Case(policy, ids.to(device.name), mask.to(device.name), torch.linspace(least, 16, len(ids)).long())


def qwen2_135m() -> Qwen2Config:
    """Return the configuration of a Qwen2 of 135 million weights, with the sizes of SmolLM2-135M."""
    return Qwen2Config(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def random_weights(
    device: Device, config: PreTrainedConfig, prompts: int = 8, prompt_tokens: int = 48, limit: int = 96, end: int = 24
) -> Case:
    """Ragged prompts for a model of random weights; one token in `end` ends a response."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    policy = Policy(model, Policy.load("rl4llm/digits").tokenizer).to(device.name, device.dtype)
    policy.end_ids = list(range(1, config.vocab_size, end))
    lengths = torch.linspace(prompt_tokens // 3, prompt_tokens, prompts).long()
    mask = torch.arange(prompt_tokens) >= prompt_tokens - lengths[:, None]
    ids = torch.randint(config.vocab_size, mask.shape)
    return Case(policy, ids.to(device.name), mask.to(device.name), torch.full((prompts,), limit))


def half_billion(device: Device) -> Case:
    """32 prompts of up to 192 tokens for a Qwen3 of half a billion weights, and responses of up to 256."""
    return random_weights(device, qwen3_half_billion(), prompts=32, prompt_tokens=192, limit=256, end=64)


ON_A_GPU = "Qwen3 0.5B, ragged"
CASES: dict[str, Callable[[Device], Case]] = {
    "rl4llm/digits": digits,
    "rl4llm/digits, ragged": partial(digits, least=2),
    "135M, ragged": lambda device: random_weights(device, qwen2_135m()),
    ON_A_GPU: half_billion,
}


def by_engine(case: Case, seed: int) -> Responses:
    """Draw with the library's engine, which also reports log-probs and entropies."""
    with HuggingFaceRollout().build(case.policy) as engine:
        return engine.generate(
            case.ids,
            case.mask,
            case.limits,
            copies=COPIES,
            sampling=Sampling(),
            seeds=torch.arange(len(case.ids)) + 1000 * seed,
        )


def by_generate(case: Case, seed: int) -> int:
    """Draw with `transformers.generate`; return the number of response tokens up to the first end of each."""
    torch.manual_seed(seed)
    drawn = case.policy.model.generate(
        input_ids=case.ids,
        attention_mask=case.mask.long(),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=COPIES,
        max_new_tokens=int(case.limits.max()),
        stopping_criteria=StoppingCriteriaList([OwnLimits(case)]),
        eos_token_id=case.policy.end_ids,
        pad_token_id=case.policy.pad_id,
    )[:, case.ids.shape[1] :]
    drawn = drawn.cpu()
    ends = torch.isin(drawn, torch.tensor(case.policy.end_ids)).long()
    within = torch.arange(drawn.shape[1]) < case.limits.repeat_interleave(COPIES)[:, None]
    return int(((ends.cumsum(-1) - ends == 0) & within).sum())


def forwards(case: Case, drawn: Responses) -> None:
    """Run the model over responses that are known, token by token, each row up to its own end: nothing is drawn.

    Rows are ordered from the longest to the shortest, so that those still going are the first ones of the cache.
    """
    model, cache = case.policy.model, DynamicCache(config=case.policy.model.config)
    lengths, order = drawn.widths.sort(descending=True)
    ids, going = drawn.ids[order], (lengths[:, None] > torch.arange(drawn.ids.shape[1])).sum(0).tolist()
    with evaluating(model):
        model(input_ids=case.ids, attention_mask=case.mask.long(), past_key_values=cache, logits_to_keep=1)
        cache.batch_select_indices(order // COPIES)
        mask = case.mask.long()[order // COPIES]
        for step, rows in enumerate(going[1:]):
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:rows], layer.values[:rows]
            mask = torch.cat([mask[:rows], mask.new_ones(rows, 1)], dim=-1)
            model(input_ids=ids[:rows, step : step + 1], attention_mask=mask, past_key_values=cache)


def measure(case: Case, repeats: int, device: Device) -> dict[str, float]:
    """Median tokens per second of each way."""
    speeds: dict[str, list[float]] = {"generate": [], "engine": [], "forwards": []}
    for seed in range(repeats + 1):  # the first round warms up
        began = device.clock()
        tokens = by_generate(case, seed)
        halfway = device.clock()
        drawn = by_engine(case, seed)
        ended = device.clock()
        forwards(case, drawn)
        own = int(drawn.widths.sum())
        for way, count, seconds in [
            ("generate", tokens, halfway - began),
            ("engine", own, ended - halfway),
            ("forwards", own, device.clock() - ended),
        ]:
            speeds[way].append(count / seconds)
    return {way: statistics.median(column[1:]) for way, column in speeds.items()}


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--out", default="rollouts.json")
    add_device(parser)
    options = parser.parse_args()
    device = chosen(options)
    names = [options.only] if options.only else [name for name in CASES if (name == ON_A_GPU) == device.is_gpu]
    print("| model | `generate`, tokens/s | engine, tokens/s | ratio | forward passes alone, tokens/s |")
    print("|---|---|---|---|---|")
    found = []
    for name in names:
        speed = measure(CASES[name](device), options.repeats, device)
        own, peer, limit = speed["engine"], speed["generate"], speed["forwards"]
        print(f"| {name} | {peer:.0f} | {own:.0f} | {own / peer:.2f} | {limit:.0f} |", flush=True)
        found.append({"model": name, **speed})
    versions = {package.__name__: package.__version__ for package in (torch, transformers)}
    with open(options.out, "w") as file:
        json.dump({**versions, "device": str(device), "runs": found}, file, indent=1)


if __name__ == "__main__":
    main()
