"""Log-probs of tokens from hidden states: time and peak memory by way of the logits, in chunks, and by peers.

    python bench/log_probs.py [--tokens 8192] [--width 896] [--vocab 151936] [--repeats 3] [--out log_probs.json]
    python bench/log_probs.py --device=cuda

Each way runs forward and backward in a process of its own, in turn, so that its peak memory is its own; times are
medians. The products alone are what no way can avoid: one forward, two backward. Needs the `bench` extra. TRL's way is
the head of its `GRPOTrainer`, Liger's is its loss of GRPO with rows of one token and without a reference model, and,
on a GPU, its cross-entropy, which computes the gradients in its forward pass.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from devices import Device, add_device, chosen
from processes import in_process
from torch import Tensor

from rl4llm.linear_log_probs import linear_log_probs
from rl4llm.log_probs import token_log_probs

Way = Callable[[Tensor, Tensor, Tensor], object]


@torch.no_grad()
def products(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """The three matrix products, of 1,024 positions and 4,096 tokens at a time, and nothing else."""
    for part in hidden.split(1024):
        for rows in weight.split(4096):
            logits = part @ rows.T
            logits @ rows
            logits.T @ part


def naive(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Logits, log-softmax and gather, each kept for the backward pass."""
    (hidden @ weight.T).log_softmax(-1, dtype=torch.float32).gather(-1, ids[:, None]).sum().backward()


def by_logits(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """`token_log_probs` of the whole logits."""
    token_log_probs(hidden @ weight.T, ids).sum().backward()


def by_states(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """`linear_log_probs`."""
    log_probs = linear_log_probs(hidden, weight, ids)
    assert isinstance(log_probs, Tensor)
    log_probs.sum().backward()


def by_trl(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Run the chunked log-probs of TRL's trainer, with its chunk size, without entropies."""
    from trl.kernels import ChunkedLogProbFunction

    ChunkedLogProbFunction.apply(hidden, weight, None, ids, 1.0, 32768, None, 1.0, ())[0].sum().backward()


def by_liger(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Run Liger's loss of GRPO: with equal advantages and ratios of 1, the gradient of the mean log-prob."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(
        beta=0.0, use_ref_model=False, loss_type="grpo", compiled=hidden.is_cuda, chunk_size=len(ids)
    )
    ones = torch.ones_like(ids)
    loss(hidden[:, None], weight, ids[:, None], ones[:, None], ones.to(hidden.dtype))[0].backward()


def by_liger_cross_entropy(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Run Liger's fused projection and cross-entropy, a Triton kernel."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    LigerFusedLinearCrossEntropyLoss(reduction="sum")(weight, hidden, ids).backward()


WAYS: dict[str, Way] = {way.__name__: way for way in (products, naive, by_logits, by_states, by_trl, by_liger)}
ON_A_GPU: dict[str, Way] = {by_liger_cross_entropy.__name__: by_liger_cross_entropy}


def measure(way: Way, device: Device, tokens: int, width: int, vocab: int) -> dict[str, float]:
    """Seconds of one forward and backward pass, and the bytes that it adds at its peak, after a smaller warm-up."""
    random = torch.Generator().manual_seed(0)
    kind = {"device": device.name, "dtype": device.dtype}
    hidden = torch.randn(tokens, width, generator=random).to(**kind).requires_grad_()
    weight = torch.randn(vocab, width, generator=random).div_(width**0.5).to(**kind).requires_grad_()
    ids = torch.randint(vocab, (tokens,), generator=random).to(device.name)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    few, known = (tokens, vocab) if device.is_gpu else (256, 1024)  # a GPU chooses its kernels by the shapes
    way(hidden[:few], weight[:known], ids[:few] % known)
    device.forget_peak()
    before, began = device.peak_bytes(), _now(device)
    way(hidden, weight, ids)
    return {"seconds": _now(device) - began, "bytes": device.peak_bytes() - before}


def _now(device: Device) -> float:
    device.wait()
    return time.perf_counter()


def print_table(found: dict[str, list[dict[str, float]]], operations: float, peak: float) -> None:
    """Print the medians, and the share of the measured peak that the three products' operations make of each time."""
    rows = {way: {k: statistics.median(r[k] for r in results) for k in results[0]} for way, results in found.items()}
    print("| way | seconds | times the products | share of the peak | peak MiB added | of the naive peak |")
    print("|---|---|---|---|---|---|")
    for way, row in rows.items():
        times, bytes_ = row["seconds"] / rows["products"]["seconds"], row["bytes"] / rows["naive"]["bytes"]
        share = operations / row["seconds"] / peak
        numbers = f"{row['seconds']:.3g} | {times:.2f} | {share:.2f} | {row['bytes'] / 2**20:.0f} | {bytes_:.3f}"
        print(f"| {way} | {numbers} |")


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="log_probs.json")
    add_device(parser)
    options = parser.parse_args()
    device = chosen(options)
    ways = WAYS | (ON_A_GPU if device.is_gpu else {})
    sizes = {name: getattr(options, name) for name in ("tokens", "width", "vocab")}
    if options.way:
        print(json.dumps(measure(ways[options.way], device, **sizes)))
        return
    flags = [f"--{name}={size}" for name, size in sizes.items()] + device.flags()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, results in found.items():
            results.append(in_process(__file__, f"--way={way}", *flags))
    peak = device.operations_per_second()
    print_table(found, 6.0 * options.tokens * options.width * options.vocab, peak)
    settings = {**sizes, "torch": torch.__version__, "device": str(device), "operations per second": peak}
    with open(options.out, "w") as file:
        json.dump({"settings": settings, "runs": found}, file, indent=1)


if __name__ == "__main__":
    main()
