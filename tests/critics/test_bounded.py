"""Laws of the bounded value and of the binary cross-entropy of a value."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import binary_value_loss, bounded_value
from rl4llm.testing.reference import heads as reference
from rl4llm.testing.strategies import masks, tensors

FEWER = settings(max_examples=settings.default.max_examples // 3)
EXACT = {"rtol": 0, "atol": 1e-10}
RANGES = st.tuples(st.floats(-5, 5), st.floats(0.1, 5)).map(lambda x: (x[0], x[0] + x[1]))
LOGITS = tensors((4, 5), -1e3, 1e3)


@given(LOGITS, RANGES)
def test_the_bounded_value_equals_the_reference(z, ends):
    low, high = ends
    torch.testing.assert_close(bounded_value(z, low=low, high=high), reference.bounded_value(z, low, high), **EXACT)


@given(LOGITS, RANGES)
def test_it_stays_within_its_bounds_and_grows(z, ends):
    low, high = ends
    value = bounded_value(z.reshape(-1).sort().values, low=low, high=high)
    assert (value > low).all()
    assert (value < high).all()
    assert (value.diff() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_logits_reach_the_bounds_and_do_not_pass_them(dtype):
    z = torch.tensor([-math.inf, torch.finfo(dtype).min, torch.finfo(dtype).max, math.inf], dtype=dtype)
    value = bounded_value(z, low=0.1, high=0.3)
    assert torch.equal(value, torch.tensor([0.1, 0.1, 0.3, 0.3], dtype=dtype))


@given(LOGITS, RANGES)
def test_it_is_symmetric_about_its_middle(z, ends):
    low, high = ends
    value, mirrored = bounded_value(z, low=low, high=high), bounded_value(-z, low=low, high=high)
    torch.testing.assert_close(value + mirrored, torch.full_like(z, low + high), **EXACT)
    middle = bounded_value(torch.zeros(1, dtype=torch.float64), low=low, high=high).item()
    assert middle == pytest.approx((low + high) / 2, abs=1e-10)


@given(LOGITS, RANGES)
def test_its_slope_is_that_of_the_arctangent(z, ends):
    low, high = ends
    leaf = z.clone().requires_grad_()
    bounded_value(leaf, low=low, high=high).sum().backward()
    torch.testing.assert_close(leaf.grad, (high - low) / (math.pi * (1 + z**2)), **EXACT)


@given(LOGITS, RANGES, st.floats(0.1, 10), st.floats(-10, 10))
def test_a_rescaled_range_rescales_the_value(z, ends, scale, shift):
    low, high = ends
    moved = bounded_value(z, low=scale * low + shift, high=scale * high + shift)
    torch.testing.assert_close(moved, scale * bounded_value(z, low=low, high=high) + shift, **EXACT)


def test_golden_values():
    # arctan(±1) = ±π/4: a quarter of the range beside the middle; arctan(√3) = π/3.
    z = torch.tensor([-1.0, 0.0, 1.0, math.sqrt(3)], dtype=torch.float64)
    expected = torch.tensor([0.5, 1.0, 1.5, 5 / 3], dtype=torch.float64)
    torch.testing.assert_close(bounded_value(z, low=0.0, high=2.0), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_computes_wide_and_keeps_the_dtype(dtype):
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    value = bounded_value(z)
    assert value.dtype == dtype
    torch.testing.assert_close(value, bounded_value(z.double()).to(dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (1.0, 0.0), (-math.inf, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_an_empty_or_unbounded_range_is_one_line(ends):
    with pytest.raises(UsageError, match=r"^bounded_value: low must be below high and both finite, got low=.*"):
        bounded_value(torch.zeros(1), low=ends[0], high=ends[1])


# --- binary cross-entropy -------------------------------------------------------------------------------------------


@st.composite
def cases(draw):
    """Logits, returns in [0, 1] and a mask."""
    mask = draw(masks())
    shape = tuple(mask.shape)
    return draw(tensors(shape, -20, 20)), draw(tensors(shape, 0, 1)), mask


@FEWER
@given(cases())
def test_binary_loss_equals_the_reference(case):
    torch.testing.assert_close(binary_value_loss(*case), reference.binary_value_loss(*case), rtol=0, atol=1e-7)


@FEWER
@given(cases())
def test_its_gradient_is_value_minus_return(case):
    logits, returns, mask = case
    leaf = logits.clone().requires_grad_()
    binary_value_loss(leaf, returns, mask).sum().backward()
    expected = torch.where(mask, logits.sigmoid() - returns, 0.0)
    torch.testing.assert_close(leaf.grad, expected, **EXACT)


def test_it_is_smallest_where_the_value_is_the_mean_return():
    returns = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 0.25]], dtype=torch.float64)
    mean = returns.mean()
    z = (mean / (1 - mean)).log().expand(1, 6).clone().requires_grad_()
    binary_value_loss(z, returns, torch.ones(1, 6, dtype=torch.bool)).sum().backward()
    assert abs(z.grad.sum()) < 1e-10


def test_a_sure_and_wrong_value_is_finite_and_pulled_by_one():
    z = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = binary_value_loss(z, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(loss, torch.tensor([[1e4, 1e4]]))
    loss.sum().backward()
    assert torch.equal(z.grad, torch.tensor([[-1.0, 1.0]]))


@FEWER
@given(cases(), st.sampled_from([math.nan, math.inf, -math.inf, 7.0]))
def test_masked_positions_are_never_read(case, garbage):
    logits, returns, mask = case
    clean = binary_value_loss(*case)
    dirty = logits.masked_fill(~mask, garbage).requires_grad_()
    loss = binary_value_loss(dirty, returns.masked_fill(~mask, garbage), mask)
    assert torch.equal(loss, clean)
    assert not clean[~mask].any()
    loss.sum().backward()
    assert dirty.grad.isfinite().all()
    assert not dirty.grad[~mask].any()


@pytest.mark.parametrize("beyond", [-0.5, 1.5, math.nan, math.inf])
def test_a_return_that_is_no_probability_is_one_line_and_masked_ones_do_not_count(beyond):
    returns = torch.tensor([[0.5, beyond]])
    with pytest.raises(UsageError, match=r"^binary_value_loss: returns must lie in \[0, 1\], got (-?\d|nan|inf)") as no:
        binary_value_loss(torch.zeros(1, 2), returns, torch.ones(1, 2, dtype=torch.bool))
    assert "\n" not in str(no.value)
    assert binary_value_loss(torch.zeros(1, 2), returns, torch.tensor([[True, False]])).isfinite().all()


def test_rounding_beyond_the_ends_is_cut_off():
    # Returns are advantages plus values, and 1 may come back as 1.0000001.
    z, mask = torch.tensor([[40.0, -40.0]], requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    loss = binary_value_loss(z, torch.tensor([[1.0000002, -2e-7]]), mask)
    assert torch.equal(loss, binary_value_loss(z, torch.tensor([[1.0, 0.0]]), mask))
    assert (loss >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_binary_loss_computes_wide_and_keeps_the_dtype(dtype):
    z = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    returns, mask = torch.full((2, 9), 0.25), torch.ones(2, 9, dtype=torch.bool)
    loss = binary_value_loss(z, returns, mask)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, binary_value_loss(z.double(), returns, mask).to(dtype), rtol=1e-6, atol=1e-6)


def test_shapes_are_checked(unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"binary_value_loss: logits has shape \(3,\)"):
        binary_value_loss(torch.zeros(3), torch.zeros(2, 3), mask)
    with pytest.raises(UsageError, match=r"binary_value_loss: returns has shape \(2, 1\)"):
        binary_value_loss(torch.zeros(2, 3), torch.zeros(2, 1), mask)
