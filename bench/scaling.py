"""CPU seconds and peak memory of a training step against the sizes of its batch, with fitted exponents.

    OMP_NUM_THREADS=1 python bench/scaling.py [--axis vocabulary] [--budget 2048] [--out scaling.json]

One size varies at a time, and each point runs in a process of its own. The step judges the responses with all critics,
estimates advantages, and runs forward and backward passes of the policy and of every critic on all rows. Exponents are
least-squares slopes of the logarithms over the upper half of the points. The picture stands beside the JSON file.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from processes import in_process, peak_bytes
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile
from training_step import Sizes, models, rollout, step

AXES = {
    "response": [256, 512, 1024, 2048, 4096, 8192],
    "prompt": [64, 128, 256, 512, 1024, 2048, 4096],
    "vocabulary": [2**power for power in range(10, 18)],
    "critics": [1, 2, 3, 4, 6, 8],
    "copies": [2, 4, 8, 16, 32],
}
NAMES = {"response": "response length", "prompt": "prompt length", "copies": "responses per prompt"}
COLUMNS = ("seconds", "seconds without attention", "bytes")


def measure(sizes: Sizes) -> dict[str, float]:
    """Return the median CPU seconds of a step, those without attention products, and the bytes added at its peak."""
    before, batch = peak_bytes(), rollout(sizes)
    run = partial(step, *models(sizes), budget=sizes.budget)
    run(rollout(replace(sizes, response=16, prompt=16)))
    times: list[float] = []
    while sum(times) < 2.0 and len(times) < 5:
        began = time.process_time()
        run(batch)
        times.append(time.process_time() - began)
    seconds, added = statistics.median(times), peak_bytes() - before
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(batch)
    rest = seconds * (1 - attention_share(profiler.key_averages()))
    return dict(zip(COLUMNS, (seconds, rest, added), strict=True))


def attention_share(events: EventList) -> float:
    """Return the share of the time that the products of queries, keys and values take, forward and backward."""
    names = ("aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention_for_cpu_backward")
    own = sum(event.cpu_time_total for event in events if event.key in names)
    return own / sum(event.self_cpu_time_total for event in events)


def exponent(sizes: list[int], numbers: list[float]) -> float:
    """Return the least-squares slope of the logarithms over the upper half of the points."""
    upper = len(sizes) // 2
    x, y = (torch.tensor(part[upper:]).double().log() for part in (sizes, numbers))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw seconds in the upper row and memory in the lower one, a column per axis."""
    layout = {"squeeze": False, "sharex": "col", "sharey": "row", "layout": "constrained"}
    figure, places = plt.subplots(2, len(found), figsize=(2.8 * len(found), 5.5), **layout)
    for column, (axis, points) in enumerate(found.items()):
        for row, names in enumerate((COLUMNS[:2], COLUMNS[2:])):
            place, scale = places[row][column], 2**20 if row else 1
            for name in names:
                numbers = [point[name] / scale for point in points]
                label = f"{'MiB added' if row else name}: {exponent(AXES[axis], numbers):.2f}"
                place.loglog(AXES[axis], numbers, "o-", label=label)
            place.set_xticks([], minor=True)
            place.set_xticks(AXES[axis][::2], AXES[axis][::2], rotation=45)
            place.legend(title="exponent", fontsize=7, title_fontsize=7, loc="upper left")
        places[0][column].set_title(NAMES.get(axis, axis))
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the tables, write the numbers and draw them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=json.loads)
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--axis", action="append", choices=list(AXES))
    parser.add_argument("--out", default="scaling.json")
    options = parser.parse_args()
    if options.sizes:
        print(json.dumps(measure(Sizes(**options.sizes))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for axis in options.axis or AXES:
        print(f"\n| {NAMES.get(axis, axis)} | CPU s | CPU s without attention products | MiB added |")
        print("|---|---|---|---|")
        found[axis] = []
        for size in AXES[axis]:
            point = in_process(__file__, f"--sizes={json.dumps({axis: size, 'budget': options.budget})}")
            found[axis].append(point)
            print(
                f"| {size} | {point[COLUMNS[0]]:.2f} | {point[COLUMNS[1]]:.2f} | {point['bytes'] / 2**20:.0f} |",
                flush=True,
            )
        slopes = [exponent(AXES[axis], [point[name] for point in found[axis]]) for name in COLUMNS]
        print("| exponent |", " | ".join(f"{slope:.2f}" for slope in slopes), "|", flush=True)
    with open(options.out, "w") as file:
        base = asdict(Sizes(budget=options.budget))
        json.dump({"torch": torch.__version__, "base": base, "axes": AXES, "runs": found}, file, indent=1)
    draw(found, Path(options.out).with_suffix(".png"))


if __name__ == "__main__":
    main()
