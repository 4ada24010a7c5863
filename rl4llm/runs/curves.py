"""The learning curves of a run, drawn as one PNG."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4llm.runs.history import History

_TRAINING, _HELD_OUT, _GREEDY = "#7aa6d8", "#1f4e8c", "#d9822b"
_EXPLAINED = "critics/explained_variance"
_LOGGED = {"entropy": "policy/entropy", "explained_variance": _EXPLAINED}
_SKIPPED = {"reward", "greedy_accuracy", "sampled_accuracy", "unscorable_share", "truncated_share", "response_length"}


def draw_curves(history: History, path: Path, *, title: str) -> None:
    """Accuracy, whatever traits the task has, response length, entropy and what critics explain, over rollout batches.

    Args:
        history: What the run showed.
        path: Where the PNG goes.
        title: Above the panels.
    """
    traits = sorted({name.removeprefix("val/") for _, numbers in history.validation for name in numbers} - _SKIPPED)
    traits = [trait for trait in traits if not trait.startswith(("pass_at", "critics/"))]
    critics = any(_EXPLAINED in numbers for _, numbers in history.training)
    panels = ["accuracy", *traits, "response_length", "entropy", *["explained_variance"] * critics]
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_title(panel.replace("_", " "))
        axis.set_xlabel("rollout batches")
        axis.grid(alpha=0.25)
    _line(axes[0], history.training, "train/accuracy", _TRAINING, "training, sampled")
    _line(axes[0], history.validation, "val/sampled_accuracy", _HELD_OUT, "held out, sampled")
    _line(axes[0], history.validation, "val/greedy_accuracy", _GREEDY, "held out, greedy")
    axes[0].set_ylim(0, 1.02)
    if axes[0].lines:
        axes[0].legend(loc="lower right", fontsize="small")
    for axis, panel in zip(axes[1:], panels[1:], strict=True):
        _line(axis, history.training, _LOGGED.get(panel, f"train/{panel}"), _TRAINING, "training")
        _line(axis, history.validation, f"val/{panel}", _HELD_OUT, "held out")
    if critics:
        axes[-1].set_ylim(-0.2, 1.02)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _line(axis: Axes, points: list[tuple[int, dict[str, float]]], name: str, color: str, label: str) -> None:
    seen = [(step, numbers[name]) for step, numbers in points if name in numbers]
    if seen:
        wide = 1.0 if label.startswith("training") else 2.0
        axis.plot(*zip(*seen, strict=True), color=color, label=label, linewidth=wide)
