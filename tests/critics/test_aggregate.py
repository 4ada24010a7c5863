"""Laws of the mean, the minimum and the spread over critics."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rl4llm.critics
from rl4llm.checks import UsageError
from rl4llm.critics import critic_first, critic_mean, critic_min, critic_std
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import tensors

ALL = [critic_mean, critic_min, critic_std]
critic_values = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9)).flatmap(tensors)


@given(critic_values)
def test_they_equal_the_plain_statistics(v):
    assert torch.allclose(critic_mean(v), v.mean(0), rtol=0, atol=1e-14)
    assert torch.equal(critic_min(v), v.amin(0))
    assert torch.allclose(critic_std(v), reference.spread(v), rtol=0, atol=1e-14)


def test_the_spread_of_two_critics_is_half_their_distance():
    # (1, 4): mean 2.5, deviations 1.5 and 1.5, population std 1.5 (the sample std would be 2.12)
    assert torch.equal(critic_std(torch.tensor([[[1.0]], [[4.0]]])), torch.tensor([[1.5]]))


@given(critic_values, st.randoms())
def test_the_order_of_the_critics_changes_no_bit(v, random):
    v = v.float()
    order = random.sample(range(len(v)), len(v))
    for function in ALL:
        assert torch.equal(function(v), function(v[order]))


@given(critic_values, st.integers(1, 7))
def test_identical_critics_have_spread_exactly_zero_and_mean_their_value(v, count):
    for x in (v[0], v[0].float(), v[0].bfloat16()):
        same = x.expand(count, *x.shape)
        assert torch.equal(critic_std(same), torch.zeros_like(x))
        assert torch.equal(critic_mean(same), x)
        assert torch.equal(critic_min(same), x)


@given(critic_values, st.floats(-100, 100))
def test_a_constant_shifts_the_mean_and_leaves_the_spread(v, shift):
    assert torch.allclose(critic_mean(v + shift), critic_mean(v) + shift, atol=1e-11)
    assert torch.allclose(critic_std(v + shift), critic_std(v), atol=1e-11)


@given(critic_values)
def test_the_first_critic_is_read_alone(v):
    v = v.requires_grad_()
    assert torch.equal(critic_first(v), v[0])
    assert not critic_first(v).requires_grad
    assert torch.equal(critic_first(v), critic_first(torch.cat([v, 2 * v + 1])))
    assert torch.equal(critic_first(v[:1]), critic_mean(v[:1]))


@given(critic_values)
def test_the_minimum_is_below_the_mean(v):
    assert (critic_min(v) <= critic_mean(v)).all()


@pytest.mark.parametrize("critics", [3, 8])
@pytest.mark.parametrize("function", ALL)
def test_they_are_pointwise(function, critics):
    v = torch.randn(critics, 5, 17, generator=torch.Generator().manual_seed(0))
    for columns in (slice(0, 16), slice(3, 4), slice(2, 13)):
        assert torch.equal(function(v[:, :, columns]), function(v)[:, columns])
    assert torch.equal(function(v[:, [3, 1, 4, 0, 2]]), function(v)[[3, 1, 4, 0, 2]])
    assert function(v[:, :1, :1].expand_as(v).contiguous()).unique().numel() == 1  # or ties would not be ties
    poisoned = v.clone()
    poisoned[1, 2, 3], poisoned[0, 4, 0] = torch.nan, torch.inf
    clean = torch.ones(5, 17, dtype=torch.bool)
    clean[2, 3] = clean[4, 0] = False
    assert torch.equal(function(poisoned)[clean], function(v)[clean])
    assert function(poisoned)[2, 3].isnan()


@pytest.mark.parametrize("function", ALL)
def test_they_keep_the_dtype_compute_wide_mutate_nothing_and_have_no_graph(function):
    v = (100 * torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))).bfloat16()
    before = v.clone()
    assert function(v).dtype == torch.bfloat16
    assert torch.equal(function(v), function(v.double()).bfloat16())
    assert torch.equal(v, before)
    assert not function(torch.randn(2, 1, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("function", ALL)
def test_no_rows_and_no_columns_are_fine(function):
    assert function(torch.zeros(2, 0, 3)).shape == (0, 3)
    assert function(torch.zeros(2, 3, 0)).shape == (3, 0)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3)])
def test_a_missing_critic_axis_is_an_error(function, shape, unchecked_shapes):
    with pytest.raises(UsageError, match=rf"{function.__name__}: critic_values has shape .*stack the critics"):
        function(torch.zeros(shape))


def test_importing_the_family_loads_no_transformers():
    code = "import sys, rl4llm.critics, rl4llm.gates; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"MiniCritics", "ValueModel"} <= set(dir(rl4llm.critics))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        rl4llm.critics.Nothing  # noqa: B018
