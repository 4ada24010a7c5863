"""GAE over a batch: ours beside the loop over time that most trainers have, and beside torchrl if it is installed.

    OMP_NUM_THREADS=1 python bench/estimators.py [--rows 64] [--columns 4096] [--repeats 15] [--out estimators.json]

Rows end at random columns and have holes. All ways alternate in one process; seconds are CPU seconds, medians. They are
compared with float64, except torchrl's vectorised form, which knows ends of rows and no holes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rl4llm.advantages import gae


def looped(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalized advantages, one step of Python a column; masked columns are stepped over."""
    later_value, later_advantage = torch.zeros(len(rewards)), torch.zeros(len(rewards))
    found, kept = [], mask.to(rewards.dtype)
    for column in reversed(range(rewards.shape[1])):
        delta = rewards[:, column] + gamma * later_value - values[:, column]
        advantage, here = delta + gamma * lam * later_advantage, kept[:, column]
        later_value = values[:, column] * here + later_value * (1 - here)
        later_advantage = advantage * here + later_advantage * (1 - here)
        found.append(advantage * here)
    return torch.stack(found[::-1], dim=1)


def torchrl_way(rewards: Tensor, values: Tensor, mask: Tensor) -> Callable[[], Tensor] | None:
    """Return torchrl's vectorised GAE over rows that end where these do; None if torchrl is not installed."""
    try:
        from torchrl.objectives.value.functional import vec_generalized_advantage_estimate
    except ImportError:
        return None
    last = mask.cumsum(-1).argmax(-1, keepdim=True)
    done = torch.zeros_like(mask).scatter(1, last, value=True)[..., None]
    later = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    given = [x[..., None] for x in (values, later, rewards)]
    return lambda: vec_generalized_advantage_estimate(1.0, 0.95, *given, done, done)[0]


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", default="estimators.json")
    options = parser.parse_args()
    random, shape = torch.Generator().manual_seed(0), (options.rows, options.columns)
    rewards, values = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
    lengths = torch.randint(options.columns // 2, options.columns + 1, (options.rows, 1), generator=random)
    mask = (torch.arange(options.columns) < lengths) & (torch.rand(shape, generator=random) > 0.05)
    ways = {
        "loop": lambda: looped(rewards, values, mask, 1.0, 0.95),
        "ours": lambda: gae(rewards, values, mask, gamma=1.0, lam=0.95).advantages,
        "ours, two λ": lambda: gae(rewards, values, mask, gamma=1.0, lam=0.95, lam_returns=1.0).advantages,
    }
    theirs = torchrl_way(rewards, values, mask)
    if theirs is not None:
        ways["torchrl"] = theirs
    exact = gae(rewards.double(), values.double(), mask, gamma=1.0, lam=0.95).advantages
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            spent[name].append(time.process_time() - began)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    print("| way | ms | times faster than the loop | largest error over the largest advantage |\n|---|---|---|---|")
    for name, way in ways.items():
        error = f"{float((way().double() - exact).abs().max() / exact.abs().max()):.0e}" if name != "torchrl" else ""
        print(f"| {name} | {1e3 * medians[name]:.1f} | {medians['loop'] / medians[name]:.1f} | {error} |")
    with open(options.out, "w") as file:
        json.dump({"shape": shape, "torch": torch.__version__, "seconds": spent}, file, indent=1)


if __name__ == "__main__":
    main()
