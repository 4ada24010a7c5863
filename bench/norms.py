"""The library's RMSNorm beside that of transformers: time of forward and backward, and memory kept between them.

    OMP_NUM_THREADS=1 python bench/norms.py [--repeats 9] [--out norms.json]

The first table is of the embedded policy over shared prompts; both ways alternate, and seconds are CPU seconds, medians
over the repeats. The second counts the bytes that autograd keeps of one forward pass of a Qwen3 of random weights.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from prompts import sequences
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, Qwen3Config

from rl4llm.models import load_backbone, resolve_model
from rl4llm.models.prefixes import distinct_prompts, states_shared
from rl4llm.models.rms_norm import with_own_norms


def seconds(trunk: PreTrainedModel, repeats: int = 5) -> float:
    """Return the median CPU seconds of a forward and a backward pass over 32 prompts with eight responses each."""
    batch, spent = sequences(32, 8, 11, 13), []
    for _ in range(repeats):
        began = time.process_time()
        states_shared(trunk, batch, distinct_prompts(batch.prompt_ids, batch.prompt_mask)).sum().backward()
        spent.append(time.process_time() - began)
        trunk.zero_grad()
    return statistics.median(spent)


def kept_bytes(trunk: PreTrainedModel) -> int:
    """Return the bytes that autograd keeps for the backward pass over two rows of 512 tokens, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in trunk.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trunk(torch.arange(1024).view(2, 512) % 400)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def qwen3() -> PreTrainedModel:
    """Return four layers of the width of Qwen3-0.6B."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 4, "vocab_size": 512}
    return AutoModel.from_config(Qwen3Config(**sizes, num_attention_heads=16, num_key_value_heads=8, head_dim=128))


def main() -> None:
    """Print both tables and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", default="norms.json")
    options = parser.parse_args()
    own, theirs = load_backbone("rl4llm/digits"), AutoModel.from_pretrained(resolve_model("rl4llm/digits")).train()
    seconds(own), seconds(theirs)
    both = [(seconds(theirs), seconds(own)) for _ in range(options.repeats)]
    times = [statistics.median(column) for column in zip(*both, strict=True)]
    ratio = statistics.median(ours / other for other, ours in both)
    print("| ms, transformers | ms, rl4llm | ratio |\n|---|---|---|")
    print(f"| {1e3 * times[0]:.1f} | {1e3 * times[1]:.1f} | {ratio:.2f} |\n", flush=True)
    print("| dtype | MiB, transformers | MiB, rl4llm | ratio |\n|---|---|---|---|")
    memory = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = qwen3().to(dtype)
        found = memory[str(dtype)] = kept_bytes(model), kept_bytes(with_own_norms(copy.deepcopy(model)))
        print(f"| {dtype} | {found[0] / 2**20:.0f} | {found[1] / 2**20:.0f} | {found[1] / found[0]:.2f} |", flush=True)
    with open(options.out, "w") as file:
        json.dump({"torch": torch.__version__, "seconds": both, "kept_bytes": memory}, file, indent=1)


if __name__ == "__main__":
    main()
