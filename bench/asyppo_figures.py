"""Learning curves of the AsyPPO study by question, as drawings whose lines and letters take the colours of the page."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from bench.asyppo_claims import ACCURACY
from bench.asyppo_results import Curves, Results
from rl4llm.studies.figure import draw_curves
from rl4llm.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE = "asyppo"
STYLE = "<style>svg { color: #333; background: #fff }</style>"  # for a viewer that shows the file alone
PLAIN = "#123456"  # stands for the colour of the text around the drawing
COLORS = ("#2f7de1", "#E69F00", "#CC79A7", "#009E73")  # safe for the colour-blind; Okabe and Ito, with a lighter blue
COLUMNS = 3  # of every figure, so that all have one scale
LINES = ("--", "-.", ":", (0, (1, 1, 4, 1)))


@dataclass(frozen=True)
class Figure:
    """Panels of learning curves; the baseline is drawn into each.

    Args:
        title: What the figure is about.
        panels: Arms of each panel, beside the baseline.
    """

    title: str
    panels: tuple[tuple[str, ...], ...]


FIGURES: Mapping[str, Figure] = {
    "methods": Figure(
        "Methods and critics",
        (
            ("ppo", "grpo", "symmetric critic", "no values"),
            ("bounded critics", "noise-normalized critics", "explained-variance switch"),
            ("learned blend", "learned blend by spread", "critics updated first"),
        ),
    ),
    "ensemble": Figure(
        "The ensemble",
        (
            ("one critic", "one critic with the parameters of two", "four critics"),
            ("prompt shards", "shared data", "random shards"),
            (
                "minimum",
                "neither gate nor filter",
                "one critic with half the data",
                "one critic with half the data, neither gate nor filter",
            ),
        ),
    ),
    "gate": Figure(
        "The gate",
        (
            ("no gate", "gate 5 %", "gate 40 %"),
            ("random gate", "gate of the widest spread", "gate of small advantages"),
            ("gate of low entropy", "gate of high entropy"),
        ),
    ),
    "entropy": Figure(
        "The entropy bonus",
        (
            ("no entropy bonus", "naive entropy bonus"),
            ("entropy filtered 40 %", "entropy filtered by entropy", "entropy filtered at random"),
        ),
    ),
    "reuse": Figure(
        "Sample reuse: passes over each rollout batch",
        (
            ("one pass", "eight passes"),
            ("grpo, one pass", "grpo", "grpo, eight passes"),
            ("ppo, one pass", "ppo", "ppo, eight passes"),
        ),
    ),
}


def draw(figure: Figure, results: Results) -> str:
    """Return a figure as SVG without colours of its own for text and axes.

    Args:
        figure: What is drawn.
        results: The study; an arm without finished runs is named in the legend of its panel without a curve.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing

    curves = results.curves(ACCURACY)
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    options = dict.fromkeys(names, PLAIN) | {"svg.fonttype": "none", "svg.hashsalt": figure.title, "font.size": 8}
    with rc_context(options):
        drawing = Drawing(figsize=(9.3, 3.8), layout="constrained")
        axes = drawing.subplots(1, COLUMNS, sharex=True, sharey=True)
        for axis, arms in zip(axes, figure.panels, strict=False):
            draw_curves(axis, curves.get(BASELINE, {}), PLAIN, _label(BASELINE, curves))
            for arm, color, line in zip(arms, COLORS, LINES, strict=False):
                _draw(axis, curves.get(arm, {}), color, _label(arm, curves), line)
            axis.grid(alpha=0.25)
            axis.set_xlabel("rollout batches")
            axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(-0.05, -0.17))
        for axis in axes[len(figure.panels) :]:
            axis.set_visible(False)
        drawing.suptitle(figure.title, fontsize=9)
        axes[0].set_ylabel("held-out accuracy")
        content = io.BytesIO()
        drawing.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(content.getvalue().decode())


def _draw(axis: "Axes", curves: Curves, *look: Any) -> None:
    color, label, line = look
    if curves:
        draw_curves(axis, curves, *look)
    else:
        axis.plot([], [], color=color, label=label, linestyle=line)


def _label(arm: str, curves: Mapping[str, Curves]) -> str:
    count = len(curves.get(arm, {}))
    return fill(f"{arm} ({counted(count, 'seed')})", 44)


def _themed(drawing: str) -> str:
    """Return the drawing alone, with the text's colour as `currentColor` and its style on the root."""
    body = drawing[drawing.index("<svg") :].replace(PLAIN, "currentColor")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the drawings of a page have the same
    body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
    return body.replace("<svg ", '<svg class="drawing" stroke-linejoin="round" ', 1).replace(">", f">\n{STYLE}", 1)


def write_figures(results: Results, folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        (folder / f"{name}.svg").write_text(draw(figure, results), encoding="utf-8")
