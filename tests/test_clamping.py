"""The slope of a clamp at its bounds does not depend on the version of torch."""

import pytest
import torch

from rl4llm.clamping import inclusive_clamp

X = [-2.0, -1.0, 0.0, 1.0, 2.0, float("nan")]
BOUNDS = [(-1.0, 1.0), (-1.0, None), (None, 1.0), (torch.full((6,), -1.0), torch.ones(6))]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_it_is_a_clamp_with_slope_1_at_its_bounds(low, high):
    x = torch.tensor(X, requires_grad=True)
    found = inclusive_clamp(x, low, high)
    torch.testing.assert_close(found, x.clamp(low, high), rtol=0, atol=0, equal_nan=True)
    found.nansum().backward()
    assert x.grad[:5].tolist() == [float(low is None), 1.0, 1.0, 1.0, float(high is None)]
    assert x.grad[5] == 0.0
