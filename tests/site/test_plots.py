"""The drawings of the objectives: every objective has one, and its curves are the weights that the code gives."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from rl4llm.testing import COEFFICIENTS
from rl4llm.testing.reference.coefficients import coefficients

DOCS = Path(__file__).parents[2] / "docs"


def loaded(path):
    """A script as a module."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plots = loaded(DOCS / "plots.py")
PANELS = pytest.mark.parametrize("panel", plots.PANELS, ids=lambda panel: panel.file)


def test_every_objective_is_drawn():
    assert {type(panel.objective) for panel in plots.PANELS} == set(COEFFICIENTS)
    page = (DOCS / "components/objectives.md").read_text(encoding="utf-8")
    for panel in plots.PANELS:
        assert f"(../images/objectives/{panel.file}.svg)" in page


@PANELS
def test_the_file_is_what_the_script_draws(panel):
    assert (DOCS / "images/objectives" / f"{panel.file}.svg").read_text(encoding="utf-8") == plots.draw(panel)


@PANELS
@pytest.mark.parametrize("sign", [1, -1])
def test_the_curve_is_the_coefficient_of_the_slow_reference(panel, sign):
    policy, batch = plots.rows_of(panel, sign)
    found = plots.weights(panel, sign)
    some = torch.arange(0, len(found), 7)
    rows = torch.cat([some, some + len(found)])  # with their siblings
    policy = {name: tensor[rows] for name, tensor in policy.items()}
    expected = coefficients(COEFFICIENTS[type(panel.objective)], panel.objective, policy, batch.select(rows))
    torch.testing.assert_close(found[some], expected[: len(some), 0], rtol=1e-9, atol=1e-12)


@PANELS
@pytest.mark.parametrize("sign", [1, -1])
def test_the_points_of_the_file_are_the_weights_by_autograd(panel, sign):
    """Read back from the drawing, to the hundredth of a pixel in which it is written."""
    drawing = (DOCS / "images/objectives" / f"{panel.file}.svg").read_text(encoding="utf-8")
    path = re.findall(rf'<path d="([^"]*)" stroke="{plots.CURVES[sign][0]}"', drawing)[0]
    points = torch.tensor([[float(n) for n in pair.split()] for pair in re.split("[ML]", path)[1:]])
    heights = plots.weights(panel, sign)
    shown = heights.abs() <= panel.top
    assert len(points) == shown.sum() >= 100
    down = (plots.HEIGHT - plots.TOP - plots.BOTTOM) / (2 * panel.top)
    across = (plots.WIDTH - plots.LEFT - plots.RIGHT) / (panel.high - panel.low)
    expected = [plots.LEFT + across * (plots.abscissae(panel) - panel.low), plots.TOP + down * (panel.top - heights)]
    expected = torch.stack(expected, -1)[shown].float()
    torch.testing.assert_close(points, expected, rtol=0, atol=0.006)


def test_ppo_has_the_weights_of_its_paper():
    """The weight is r A, except that it is 0 for A > 0 above a ratio of 1.2 and for A < 0 below a ratio of 0.8."""
    (panel,) = [panel for panel in plots.PANELS if panel.file == "ppo_clip"]
    r = plots.abscissae(panel)
    torch.testing.assert_close(plots.weights(panel, 1), torch.where(r < 1.2, r, 0.0))
    torch.testing.assert_close(plots.weights(panel, -1), torch.where(r > 0.8, -r, 0.0))
