"""Rollouts: response tokens per second of `HuggingFaceRollout` and of `transformers.generate` with the same model.

    OMP_NUM_THREADS=1 python bench/rollouts.py [--repeats 5] [--only NAME] [--device cpu] [--out rollouts.json]

Both draw eight responses to each prompt at temperature 1 from the whole vocabulary, and both stop a response at the
same end tokens and at the same limit of its prompt. They alternate in one process; seconds are those of its CPUs, on a
GPU those of the clock; numbers are medians over the repeats. The embedded policy writes 13 tokens to every prompt, so
the limits of its second case spread from 2 to 16. The model of 135 million weights is made at random, and a share of
its vocabulary ends a response, so that lengths are geometric. The forward passes alone are the yardstick: those of the
engine's rows with the cache of transformers, with tokens known beforehand and nothing drawn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, StoppingCriteria, StoppingCriteriaList

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


def digits(device: str, least: int = 16) -> Case:
    """32 prompts of the embedded task for the embedded policy, with limits that spread from the least to 16."""
    policy, task = Policy.load("rl4llm/digits").to(device), AbsoluteDifference()
    ids, mask = encode_prompts(policy, [example.prompt for example in task.examples("train")[:32]], 16)
    return Case(policy, ids.to(device), mask.to(device), torch.linspace(least, 16, len(ids)).long())


def random_weights(device: str, prompts: int = 8, limit: int = 96, share: int = 24) -> Case:
    """A Qwen2 of 135 million random weights; every 24th token of its vocabulary ends a response."""
    config = Qwen2Config(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    policy = Policy(Qwen2ForCausalLM(config), Policy.load("rl4llm/digits").tokenizer).to(device)
    policy.end_ids = list(range(1, config.vocab_size, share))
    lengths = torch.linspace(16, 48, prompts).long()
    mask = torch.arange(48) >= 48 - lengths[:, None]
    return Case(
        policy, torch.randint(config.vocab_size, mask.shape).to(device), mask.to(device), torch.full((prompts,), limit)
    )


CASES: dict[str, Callable[[str], Case]] = {
    "rl4llm/digits": digits,
    "rl4llm/digits, ragged": partial(digits, least=2),
    "135M, ragged": random_weights,
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


def clock(device: str) -> float:
    """CPU seconds of this process; with a GPU, seconds of the clock once it has done its work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(case: Case, repeats: int, device: str) -> dict[str, float]:
    """Median tokens per second of each way."""
    speeds: dict[str, list[float]] = {"generate": [], "engine": [], "forwards": []}
    for seed in range(repeats + 1):  # the first round warms up
        began = clock(device)
        tokens = by_generate(case, seed)
        halfway = clock(device)
        drawn = by_engine(case, seed)
        ended = clock(device)
        forwards(case, drawn)
        own = int(drawn.widths.sum())
        for way, count, seconds in [
            ("generate", tokens, halfway - began),
            ("engine", own, ended - halfway),
            ("forwards", own, clock(device) - ended),
        ]:
            speeds[way].append(count / seconds)
    return {way: statistics.median(column[1:]) for way, column in speeds.items()}


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="rollouts.json")
    options = parser.parse_args()
    print("| model | `generate`, tokens/s | engine, tokens/s | ratio | forward passes alone, tokens/s |")
    print("|---|---|---|---|---|")
    found = []
    for name in [options.only] if options.only else CASES:
        speed = measure(CASES[name](options.device), options.repeats, options.device)
        own, peer, limit = speed["engine"], speed["generate"], speed["forwards"]
        print(f"| {name} | {peer:.0f} | {own:.0f} | {own / peer:.2f} | {limit:.0f} |", flush=True)
        found.append({"model": name, **speed})
    with open(options.out, "w") as file:
        json.dump({"torch": torch.__version__, "transformers": transformers.__version__, "runs": found}, file, indent=1)


if __name__ == "__main__":
    main()
