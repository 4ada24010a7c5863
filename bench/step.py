"""A training step: rl4llm's GRPO beside TRL's `GRPOTrainer` on the same work.

    python bench/step.py [--threads 1 2] [--repeats 9] [--model FOLDER] [--out step.json]
    python bench/step.py --device=cuda
    python bench/step.py --curve [--batches 40] [--out curve.json]

Each trainer has a process of its own, and they alternate step by step; seconds are medians over the repeats, of a whole
rollout batch: sampling, reward, update, and what a trainer does between two batches. Needs the `bench` extra. With
`--curve` both are trained, one after the other, and evaluated on the same held-out prompts.

On a GPU the policy is a Qwen3 of half a billion random weights, in float32 with autocast to bfloat16. The shares of the
peak compare the operations that the work needs, two per weight and token of a forward pass and six of a forward and
backward pass, with each prompt once, to the speed of a product of two square matrices on the same device.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from devices import add_device, chosen
from long_prompts import LongPrompts, lottery
from random_models import product_weights, qwen3_half_billion, save
from stepping import Seconds, Started, Stepper
from trainers import Contestant, Work, rl4llm_trainer, trl_trainer

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.held_out import answer_held_out
from rl4llm.algorithms.runtime import Runtime
from rl4llm.data import AbsoluteDifference
from rl4llm.data.task import PromptBatch
from rl4llm.rewards import Scoring
from rl4llm.rollouts import HuggingFaceRollout, Sampling

BUILDERS = {"TRL": trl_trainer, "rl4llm": rl4llm_trainer}
HEADER = (
    "| model | prompt tokens | prompts × responses × tokens | optimizer steps | threads "
    "| s, TRL | s, rl4llm | ratio | CPU s, TRL | CPU s, rl4llm | ratio | shares of the peak |"
)
SAMPLES = 4  # held-out responses to each prompt


def cases(folder: str | None) -> Iterator[tuple[str, int, Work]]:
    """Yield the model's name in the table, the prompt's tokens, and the work."""
    embedded = Work("rl4llm/digits", AbsoluteDifference(), prompts=32, copies=8, tokens=16)
    yield "embedded", 11, embedded
    yield "embedded", 11, replace(embedded, updates=4)
    yield "embedded", 128, Work("rl4llm/digits", LongPrompts(128), 16, 8, 32, forced=True)
    if folder is None:
        print("SmolLM2-135M is left out; pass its folder as --model.")
        return
    yield "SmolLM2-135M", 32, Work(folder, LongPrompts(32), 2, 8, 16, forced=True, rate=1e-6)


def gpu_cases(folder: str) -> Iterator[tuple[str, int, Work]]:
    """Write the model into the folder; yield its name, the prompt's tokens, and the work."""
    model = save(qwen3_half_billion(), Path(folder))
    for tokens in (128, 512):
        work = Work(model, LongPrompts(tokens, reward=lottery), 8, 8, 256, forced=True, rate=1e-6)
        yield "Qwen3 0.5B", tokens, work
    yield "Qwen3 0.5B", 512, replace(work, updates=4)


def operations(work: Work, prompt_tokens: int, response_tokens: float) -> float:
    """Return the operations of sampling and of one pass over all rows for the update, each prompt once in both."""
    responses = work.prompts * work.copies * response_tokens
    return (2 + 6) * product_weights(work.policy().model) * (work.prompts * prompt_tokens + responses)


def start(name: str, work: Work) -> Started:
    """Build a trainer; return its training loop and a function for the mean response length of the last batch."""
    be_quiet()
    contestant = BUILDERS[name](work)
    return contestant.train, contestant.length


def alternate(work: Work, repeats: int, threads: int) -> tuple[dict[str, list[Seconds]], dict[str, float]]:
    """Seconds of the timed steps of each trainer, and the mean length of the responses of the last one."""
    warm_up = 3
    work = replace(work, batches=warm_up + repeats)
    steppers = {name: Stepper(start, name, work, threads=threads) for name in BUILDERS}
    try:
        seconds = [{name: stepper.step() for name, stepper in steppers.items()} for _ in range(work.batches)]
    finally:
        for stepper in steppers.values():
            stepper.stop()
    timed = {name: [each[name] for each in seconds[warm_up:]] for name in steppers}
    return timed, {name: stepper.number for name, stepper in steppers.items()}


def compare(planned: Sequence[tuple[str, int, Work]], threads: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Print the table row by row; return what is in it."""
    found = []
    print(HEADER + "\n" + "|---" * 12 + "|")
    for name, prompt_tokens, work in planned:
        for number in threads:
            torch.set_num_threads(number)
            peak = work.device.operations_per_second()
            seconds, lengths = alternate(work, repeats, number)
            shape = f"{work.prompts} × {work.copies} × {work.tokens}"
            cells = [name, prompt_tokens, shape, work.updates, number]
            medians = {kind: {who: _median(seconds[who], kind) for who in seconds} for kind in Seconds._fields}
            for both in medians.values():
                cells += [f"{both['TRL']:.3f}", f"{both['rl4llm']:.3f}", f"{both['TRL'] / both['rl4llm']:.2f}"]
            needed = operations(work, prompt_tokens, lengths["rl4llm"])
            shares = {who: needed / seconds / peak for who, seconds in medians["wall"].items()}
            print(f"| {' | '.join(map(str, cells))} | {shares['TRL']:.3f}, {shares['rl4llm']:.3f} |", flush=True)
            plan = {"model": name, "prompt_tokens": prompt_tokens, "shape": shape, "optimizer_steps": work.updates}
            plan |= {"device": str(work.device), "peak": peak, "shares": shares}
            found.append({**plan, "threads": number, "seconds": medians, "response_tokens": lengths, "all": seconds})
    return found


def _median(seconds: Sequence[Seconds], kind: str) -> float:
    return statistics.median(getattr(one, kind) for one in seconds)


def accuracy(contestant: Contestant, work: Work, prompts: PromptBatch) -> float:
    """Share of right answers among sampled responses to held-out prompts, with the same random numbers every time."""
    sampling, runtime = Sampling(max_response_tokens=work.tokens), Runtime()
    with HuggingFaceRollout().build(contestant.policy) as engine:
        engine.sync((), 0)
        answering = Answering(contestant.policy, engine, Scoring(workers=0).build(), sampling)
        rows, _ = answer_held_out(runtime, answering, prompts, SAMPLES, sampling, seed=0, first=0)
    return float((rows.scores > 0).float().mean())


def curves(work: Work, every: int) -> dict[str, list[float]]:
    """Held-out accuracy of each trainer before training and after every so many batches."""
    held_out = PromptBatch(work.task.examples("validation")[:], work.task)
    return {name: curve(build(work), work, held_out, every) for name, build in BUILDERS.items()}


def curve(contestant: Contestant, work: Work, held_out: PromptBatch, every: int) -> list[float]:
    """Train, and return the accuracy before the first batch and after every so many."""
    found, batches = [accuracy(contestant, work, held_out)], count(1)

    def after_batch() -> None:
        if not next(batches) % every:
            found.append(accuracy(contestant, work, held_out))

    contestant.train(after_batch)
    return found


def draw_curves(batches: int, every: int) -> list[dict[str, Any]]:
    """Print both curves side by side; return them."""
    work = Work("rl4llm/digits", AbsoluteDifference(), 32, 8, 16, updates=4, rate=5e-5, batches=batches)
    found = curves(work, every)
    print("| batches | held-out accuracy, TRL | held-out accuracy, rl4llm |\n|---|---|---|")
    for index, (peer, own) in enumerate(zip(found["TRL"], found["rl4llm"], strict=True)):
        print(f"| {index * every} | {peer:.3f} | {own:.3f} |")
    return [{"batches": batches, "every": every, "accuracy": found}]


def be_quiet() -> None:
    """Silence warnings, logs and progress bars."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", help="1 and 2 on a CPU")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model", metavar="FOLDER", help="Hugging Face folder of SmolLM2-135M")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--out", default="step.json")
    add_device(parser)
    options = parser.parse_args()
    device = chosen(options)
    be_quiet()
    if options.curve:
        runs = draw_curves(options.batches, every=10)
    else:
        with tempfile.TemporaryDirectory() as folder:
            every = gpu_cases(folder) if device.is_gpu else cases(options.model)
            named = (case for case in every if options.only in case[0])
            planned = [(name, tokens, replace(work, device=device)) for name, tokens, work in named]
            threads = options.threads or ([torch.get_num_threads()] if device.is_gpu else [1, 2])
            runs = compare(planned, threads, options.repeats)
    versions = {package.__name__: package.__version__ for package in (torch, transformers, trl)}
    with open(options.out, "w") as file:
        json.dump({**versions, "runs": runs}, file, indent=1)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
