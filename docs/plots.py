"""Draws, for each objective, the weight that it gives to the score function of a token, against the ratio.

`python docs/plots.py` writes the drawings of the page on objectives from the code of the library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.objectives import (
    CISPO,
    DPPO,
    GMPO,
    GSPO,
    REBEL,
    SAPO,
    TOPR,
    EntropyRatioClip,
    GSPOToken,
    ImportanceWeighted,
    MaskedImportanceWeighted,
    MinPrefixRatio,
    OptimalAdvantageRegression,
    PolicyObjective,
    PPOClip,
    RatioVariance,
    Reinforce,
    SoLS,
    TrajectoryBellmanResidual,
)

FOLDER = Path(__file__).parent / "images" / "objectives"
OLD, POINTS = math.log(0.2), 252  # probability of the token before the update; points of a curve, none on a bound
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 256, 180, 30, 16, 24, 34  # of a drawing and its margins
CURVES = {1: ("#2f7de1", "none", "A &gt; 0", LEFT), -1: ("#e8710a", "5 3", "A &lt; 0", LEFT + 40)}


@dataclass(frozen=True)
class Panel:
    """One drawing: an objective, what its axis holds, and the part of the plane that is shown."""

    file: str
    objective: PolicyObjective
    axis: str = "ratio π/π_old"
    low: float = 0.0
    high: float = 2.5
    top: float = 2.5

    @property
    def title(self) -> str:
        """The objective with the settings that are not its defaults."""
        values = {field.name: getattr(self.objective, field.name) for field in fields(self.objective)}
        own = [
            f"{name}={value}" for name, value in values.items() if value != getattr(type(self.objective), name, None)
        ]
        return f"{type(self.objective).__name__}({', '.join(own)})"


PANELS = (
    Panel("reinforce", Reinforce()),
    Panel("importance_weighted", ImportanceWeighted()),
    Panel("masked_importance_weighted", MaskedImportanceWeighted(clip_high=1.0), "ratio π/μ"),
    Panel("ppo_clip", PPOClip()),
    Panel("dual_clip", PPOClip(dual_clip=2.0)),
    Panel("cispo", CISPO(clip_high=0.5)),
    Panel("dppo", DPPO(), "ratio π/μ"),
    Panel("min_prefix_ratio", MinPrefixRatio(clip_high=1.0)),
    Panel("ratio_variance", RatioVariance(multiplier=0.5)),
    Panel("sapo", SAPO(tau_positive=3.0, tau_negative=4.0)),
    Panel("sols", SoLS(), "ratio π/μ"),
    Panel("topr", TOPR()),
    Panel("gspo", GSPO(), "ratio s of the response", 0.999, 1.001),
    Panel("gspo_token", GSPOToken(), "ratio s of the response", 0.999, 1.001),
    Panel("gmpo", GMPO()),
    Panel("entropy_ratio_clip", EntropyRatioClip(Reinforce()), "entropy ratio H/H_old", 0.9, 1.1),
    Panel("optimal_advantage", OptimalAdvantageRegression(beta=0.5), "ratio π/π_ref", low=0.1),
    Panel("bellman_residual", TrajectoryBellmanResidual(beta=1.0), "ratio π/π_ref", low=0.1, top=5.0),
    Panel("rebel", REBEL(), "ratio π/π_old", low=0.1, top=8.0),
)


def abscissae(panel: Panel) -> Tensor:
    """The ratios at which a panel is evaluated; 0 itself, where a log-prob is infinite, is left out."""
    ends = torch.linspace(panel.low, panel.high, POINTS, dtype=torch.float64)
    return ends[ends > 0]


def rows_of(panel: Panel, sign: int) -> tuple[dict[str, Tensor], RolloutBatch]:
    """What the policy says and the batch: for each ratio one token with advantage `sign`, then a sibling at ratio 1.

    Every response is one token long. Its score is its advantage, its value is 0, and its sibling has the other score.
    """
    x = abscissae(panel)
    entropy_axis, count = panel.axis.startswith("entropy"), len(x)
    one, pairs = torch.ones(2 * count, 1, dtype=torch.float64), torch.arange(count)
    siblings = torch.ones_like(x)
    moved = torch.cat([siblings if entropy_axis else x, siblings])[:, None]
    signs = torch.cat([siblings, -siblings])[:, None] * sign
    zeros, ids = torch.zeros_like(one), torch.zeros(2 * count, 1, dtype=torch.int64)
    old = torch.full_like(one, OLD)
    batch = RolloutBatch(
        prompt_ids=ids, prompt_mask=ids == 0, response_ids=ids, response_mask=ids == 0,
        group_ids=torch.cat([pairs, pairs]), prompt_uids=torch.cat([pairs, pairs]), truncated=ids[:, 0] > 0,
        scores=signs[:, 0], rewards=signs, advantages=signs, rollout_log_probs=old, old_log_probs=old,
        ref_log_probs=old, ref_logsumexp=zeros, values=zeros, entropies=one,
    )  # fmt: skip
    entropies = torch.cat([x, siblings])[:, None] if entropy_axis else one
    return {"log_probs": OLD + moved.log(), "entropies": entropies, "logsumexp": zeros}, batch


def weights(panel: Panel, sign: int) -> Tensor:
    """What the objective multiplies ∇log π of the token with, by autograd: minus its gradient, at each ratio."""
    policy, batch = rows_of(panel, sign)
    policy["log_probs"].requires_grad_()
    losses = panel.objective(PolicyOutput(**policy), batch)
    if panel.objective.whole_groups:  # the sibling's loss depends on this response as well
        losses.sum().backward()
    else:
        losses[: len(abscissae(panel))].sum().backward()
    gradient = policy["log_probs"].grad
    assert gradient is not None
    return -gradient[: len(abscissae(panel)), 0]


def draw(panel: Panel) -> str:
    """The drawing as SVG; its letters and axes take the colour of the text around it."""
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="none" stroke-width="1">',
        "<style>svg { color: #333; background: #fff }</style>",
        f'<text x="{WIDTH / 2:g}" y="14" fill="currentColor" text-anchor="middle">{panel.title}</text>',
    ]
    for value in (-panel.top, 0.0, panel.top):
        y = TOP + down * (panel.top - value) / (2 * panel.top)
        parts.append(
            f'<path d="M{LEFT} {y:g}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity="{_faint(value)}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 4}" y="{y + 4:g}" fill="currentColor" text-anchor="end">{_number(value)}</text>'
        )
    for value in sorted({panel.low, 1.0, panel.high}):
        x = LEFT + across * (value - panel.low) / (panel.high - panel.low)
        parts.append(f'<path d="M{x:.4g} {TOP}V{HEIGHT - BOTTOM}" stroke="currentColor" stroke-opacity="0.25"/>')
        parts.append(f'<text x="{x:.4g}" y="{HEIGHT - 20}" fill="currentColor" text-anchor="middle">{value:g}</text>')
    for sign, (colour, dashes, name, x) in CURVES.items():
        path = curve(panel, weights(panel, sign))
        parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - 5}" fill="{colour}">{name}</text>')
    right = WIDTH - RIGHT
    parts.append(f'<text x="{right}" y="{HEIGHT - 5}" fill="currentColor" text-anchor="end">{panel.axis}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def curve(panel: Panel, heights: Tensor) -> str:
    """The path of a curve, with a gap where it jumps or leaves the drawing."""
    across, down = (WIDTH - LEFT - RIGHT) / (panel.high - panel.low), (HEIGHT - TOP - BOTTOM) / (2 * panel.top)
    commands, before = [], math.nan
    for x, y in zip(abscissae(panel).tolist(), heights.tolist(), strict=True):
        if abs(y) <= panel.top:
            joined = abs(y - before) * down < 4
            commands.append(
                f"{'L' if joined else 'M'}{LEFT + across * (x - panel.low):.2f} {TOP + down * (panel.top - y):.2f}"
            )
        before = y if abs(y) <= panel.top else math.nan
    return "".join(commands)


def _faint(value: float) -> float:
    return 0.6 if value == 0 else 0.25


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def main(panels: Sequence[Panel] = PANELS, folder: Path = FOLDER) -> None:
    """Write the drawings of all panels."""
    folder.mkdir(parents=True, exist_ok=True)
    for panel in panels:
        (folder / f"{panel.file}.svg").write_text(draw(panel), encoding="utf-8")


if __name__ == "__main__":
    main()
