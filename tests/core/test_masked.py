"""Masked reductions equal plain ones over the entries that count, whatever stands at the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_quantile, masked_sum, masked_var
from rl4llm.testing.strategies import masks, tensors

GARBAGE = st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e30])


@st.composite
def cases(draw):
    mask = draw(masks(max_batch=4, max_time=6))
    x = draw(tensors(tuple(mask.shape)))
    return x, mask, torch.where(mask, x, draw(GARBAGE))


def plain(function, x, mask, dim):
    """The function of the counted entries alone: of all, or of each row or column."""
    if dim is None:
        return function(x[mask])
    lines = [(x.select(1 - dim, i), mask.select(1 - dim, i)) for i in range(x.shape[1 - dim])]
    return torch.stack([function(line[m]) for line, m in lines])


def mean(x):
    return x.mean() if len(x) else torch.zeros((), dtype=x.dtype)


def var(x, unbiased):
    return x.var(unbiased=unbiased) if len(x) > 1 else torch.zeros((), dtype=x.dtype)


@pytest.mark.parametrize("dim", [None, 0, 1])
@given(case=cases())
def test_reductions_equal_the_plain_ones_over_what_counts(dim, case):
    x, mask, dirty = case
    torch.testing.assert_close(masked_sum(dirty, mask, dim=dim), plain(torch.sum, x, mask, dim))
    torch.testing.assert_close(masked_mean(dirty, mask, dim=dim), plain(mean, x, mask, dim))
    for unbiased in (True, False):
        expected = plain(lambda v, u=unbiased: var(v, u), x, mask, dim)
        torch.testing.assert_close(masked_var(dirty, mask, dim=dim, unbiased=unbiased), expected)


@given(cases(), st.floats(0, 1))
def test_the_quantile_equals_the_plain_one_over_what_counts(case, q):
    x, mask, dirty = case
    counted = x[mask]
    expected = counted.quantile(q) if len(counted) else torch.zeros((), dtype=x.dtype)
    torch.testing.assert_close(masked_quantile(dirty, mask, q), expected)


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_var, lambda x, m: masked_quantile(x, m, 0.3)])
@given(case=cases())
def test_gradient_reaches_what_counts_and_is_zero_elsewhere(function, case):
    x, mask, dirty = case
    dirty = dirty.clone().requires_grad_()
    function(dirty, mask).backward()
    assert dirty.grad.isfinite().all()
    assert not dirty.grad[~mask].any()
    clean = x[mask].clone().requires_grad_()
    function(clean, torch.ones_like(clean, dtype=torch.bool)).backward()
    torch.testing.assert_close(dirty.grad[mask], clean.grad)


@given(cases())
def test_keep_passes_the_counted_entries_and_their_gradient_only(case):
    x, mask, dirty = case
    dirty = dirty.clone().requires_grad_()
    kept = keep(dirty, mask, 7.0)
    assert torch.equal(kept[mask], x[mask])
    assert (kept[~mask] == 7.0).all()
    (kept**2).sum().backward()
    torch.testing.assert_close(dirty.grad, torch.where(mask, 2 * x, 0.0))


def test_keep_keeps_integers_and_half_precision():
    mask = torch.tensor([True, False])
    assert keep(torch.tensor([3, 4]), mask).dtype == torch.long
    assert keep(torch.tensor([3.0, 4.0], dtype=torch.bfloat16), mask).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.long, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_nothing_is_reduced_below_float32(unchecked_shapes, given_dtype, expected):
    x, mask = torch.ones(3).to(given_dtype), torch.tensor([True, True, False])
    assert at_least_float32(x).dtype == expected
    for result in (masked_sum(x, mask), masked_mean(x, mask), masked_var(x, mask), masked_quantile(x, mask, 0.5)):
        assert result.dtype == expected


def test_bfloat16_is_summed_in_float32():
    x = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    assert masked_sum(x, torch.ones(4096, dtype=torch.bool)) == 4096
    assert masked_mean(x * 3, torch.ones(4096, dtype=torch.bool)) == 3


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 3)])
def test_over_nothing_everything_is_zero(shape):
    x, mask = torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.bool)
    for result in (masked_sum(x, mask), masked_mean(x, mask), masked_var(x, mask), masked_quantile(x, mask, 0.5)):
        assert result == 0
        assert result.shape == ()


@given(st.integers(1, 9), st.floats(-1e3, 1e3, width=32))
def test_the_variance_of_equal_numbers_is_exactly_zero(count, value):
    x = torch.full((count,), value)
    assert masked_var(x, torch.ones(count, dtype=torch.bool)) == 0
    rows = masked_var(x[None].expand(2, -1), torch.ones(2, count, dtype=torch.bool), dim=1)
    assert rows.tolist() == [0, 0]


def test_a_bad_number_that_counts_is_not_hidden():
    x, mask = torch.tensor([1.0, float("nan")]), torch.tensor([True, True])
    for function in (masked_sum, masked_mean, masked_var):
        assert function(x, mask).isnan()


@given(cases())
def test_reductions_do_not_change_their_inputs(case):
    x, mask, _ = case
    copies = x.clone(), mask.clone()
    for function in (masked_sum, masked_mean, masked_var, lambda a, b: masked_quantile(a, b, 0.5), keep):
        function(x, mask)
    assert torch.equal(x, copies[0])
    assert torch.equal(mask, copies[1])


@pytest.mark.parametrize("name", ["masked_sum", "masked_mean", "masked_var", "masked_quantile"])
def test_masks_of_another_kind_or_shape_are_refused(unchecked_shapes, name):
    function = {
        "masked_sum": masked_sum,
        "masked_mean": masked_mean,
        "masked_var": masked_var,
        "masked_quantile": lambda x, m: masked_quantile(x, m, 0.5),
    }[name]
    with pytest.raises(UsageError, match=rf"{name}: mask must be a bool tensor, got torch.float32; pass mask.bool"):
        function(torch.zeros(3), torch.ones(3))
    with pytest.raises(UsageError, match=rf"{name}: mask has shape \(2,\), x \(3,\); pass one truth value per entry"):
        function(torch.zeros(3), torch.ones(2, dtype=torch.bool))


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_outside_zero_and_one_is_refused(q):
    with pytest.raises(UsageError, match=r"masked_quantile: q must be in \[0, 1\]"):
        masked_quantile(torch.zeros(2), torch.ones(2, dtype=torch.bool), q)
