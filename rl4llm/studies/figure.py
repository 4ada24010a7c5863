"""Learning curves of the arms: the mean over seeds with its 95 % bootstrap band."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from rl4llm.studies.statistics import mean_interval

Curves = Mapping[int, list[tuple[int, float]]]
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")  # Okabe and Ito
_COLUMNS = 4


def draw_arms(curves: Mapping[str, Curves], baseline: str, path: Path, *, metric: str) -> None:
    """Draw the curves of up to seven arms into one panel, and those of more into one panel each beside the baseline.

    Args:
        curves: Curves of each arm by seed.
        baseline: The arm that is drawn into every panel.
        path: The file.
        metric: What the curves show.
    """
    others = [name for name in curves if name != baseline]
    panels = [[*curves]] if len(curves) <= len(_COLORS) else [[baseline, other] for other in others]
    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    size = (6.4, 4.2) if len(panels) == 1 else (3.2 * columns, 2.4 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axis, names in zip(axes, panels, strict=False):
        for color, name in zip(_COLORS, names, strict=False):
            draw_curves(axis, curves.get(name, {}), color, name)
        axis.grid(alpha=0.25)
        if axis.lines:
            axis.legend(fontsize="small")
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("rollout batches")
    figure.supylabel(metric)
    figure.savefig(path, dpi=110)


def draw_curves(axis: Axes, curves: Curves, color: str, name: str, line: LineStyleType = "-") -> None:
    """Draw the mean of an arm and its band at the steps that all seeds share.

    Args:
        axis: Where to draw.
        curves: Curves of the arm by seed.
        color: Colour of line and band.
        name: Label of the line.
        line: Style of the line.
    """
    by_seed = [dict(curve) for curve in curves.values()]
    steps = sorted(set.intersection(*(set(curve) for curve in by_seed))) if by_seed else []
    if not steps:
        return
    points = [mean_interval([curve[step] for curve in by_seed]) for step in steps]
    marker = "." if len(steps) == 1 else None
    means = [point.value for point in points]
    axis.plot(steps, means, color=color, label=name, marker=marker, linestyle=line)
    axis.fill_between(steps, [p.low for p in points], [p.high for p in points], color=color, alpha=0.2, linewidth=0)
