"""Log-probs of tokens from hidden states: time and peak memory by way of the logits, and in chunks.

    python bench/log_probs.py [--tokens 8192] [--width 896] [--vocab 151936] [--repeats 3] [--out log_probs.json]

Each way runs forward and backward in a process of its own, in turn, so that its peak memory is its own; times are
medians. The products alone are what no way can avoid: one forward, two backward.
"""

import argparse
import json
import statistics
import time

import torch
from processes import in_process, peak_bytes
from torch import Tensor

from rl4llm.linear_log_probs import linear_log_probs
from rl4llm.log_probs import token_log_probs


def products(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """The three matrix products in chunks, and nothing else."""
    for part, _ in zip(hidden.detach().split(256), ids.split(256), strict=True):
        logits = part @ weight.detach().T
        logits @ weight.detach()
        logits.T @ part


def naive(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Logits, log-softmax and gather, each kept for the backward pass."""
    (hidden @ weight.T).log_softmax(-1).gather(-1, ids[:, None]).sum().backward()


def by_logits(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """`token_log_probs` of the whole logits."""
    token_log_probs(hidden @ weight.T, ids).sum().backward()


def by_states(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """`linear_log_probs`."""
    log_probs = linear_log_probs(hidden, weight, ids)
    assert isinstance(log_probs, Tensor)
    log_probs.sum().backward()


WAYS = {way.__name__: way for way in (products, naive, by_logits, by_states)}


def measure(way: str, tokens: int, width: int, vocab: int) -> dict[str, float]:
    """Seconds of one forward and backward pass, and the bytes that it adds at its peak."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=random, requires_grad=True)
    weight = (torch.randn(vocab, width, generator=random) / width**0.5).requires_grad_()
    ids = torch.randint(vocab, (tokens,), generator=random)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before, began = peak_bytes(), time.perf_counter()
    WAYS[way](hidden, weight, ids)
    return {"seconds": time.perf_counter() - began, "bytes": peak_bytes() - before}


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="log_probs.json")
    options = parser.parse_args()
    sizes = [f"--{name}={getattr(options, name)}" for name in ("tokens", "width", "vocab")]
    if options.way:
        print(json.dumps(measure(options.way, options.tokens, options.width, options.vocab)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, results in found.items():
            results.append(in_process(__file__, f"--way={way}", *sizes))
    rows = {way: {k: statistics.median(r[k] for r in results) for k in results[0]} for way, results in found.items()}
    print("| way | seconds | times the products | peak MiB added | of the naive peak |\n|---|---|---|---|---|")
    for way, row in rows.items():
        ratios = row["seconds"] / rows["products"]["seconds"], row["bytes"] / rows["naive"]["bytes"]
        print(f"| {way} | {row['seconds']:.1f} | {ratios[0]:.2f} | {row['bytes'] / 2**20:.0f} | {ratios[1]:.3f} |")
    settings = {"tokens": options.tokens, "width": options.width, "vocab": options.vocab, "torch": torch.__version__}
    with open(options.out, "w") as file:
        json.dump({"settings": settings, "runs": found}, file, indent=1)


if __name__ == "__main__":
    main()
