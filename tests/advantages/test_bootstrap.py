"""The value at the cut as a function: domain, dtype, graph."""

import pytest
import torch

from rl4llm.advantages import bootstrap_truncated
from rl4llm.checks import UsageError

MASK = torch.tensor([[True, True, False], [False, True, True]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_comes_in_the_dtype_of_the_rewards_and_without_graph(dtype):
    rewards = torch.full((2, 3), 0.25, dtype=dtype, requires_grad=True)
    found = bootstrap_truncated(rewards, torch.tensor([0.5, 1.0], dtype=torch.float64), MASK, gamma=0.5)
    assert found.dtype == dtype
    assert not found.requires_grad
    assert found.tolist() == [[0.25, 0.5, 0.0], [0.0, 0.25, 0.75]]


@pytest.mark.parametrize("gamma", [-0.01, 1.01, float("nan")])
def test_the_discount_lies_between_0_and_1(gamma):
    with pytest.raises(UsageError, match=r"^bootstrap_truncated: gamma must be in \[0, 1\], got"):
        bootstrap_truncated(torch.zeros(2, 3), torch.zeros(2), MASK, gamma=gamma)


def test_no_discount_pays_nothing_and_the_default_is_none():
    ends = torch.ones(2)
    assert not bootstrap_truncated(torch.zeros(2, 3), ends, MASK, gamma=0.0).any()
    assert bootstrap_truncated(torch.zeros(2, 3), ends, MASK).sum().item() == 2.0


def test_rewards_of_another_shape_are_named(unchecked_shapes):
    with pytest.raises(UsageError, match=r"^bootstrap_truncated: rewards has shape \(2, 2\), response_mask \(2, 3\)"):
        bootstrap_truncated(torch.zeros(2, 2), torch.zeros(2), MASK)
