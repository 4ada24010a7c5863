"""Laws of the quantile loss: what it is smallest at, for small and for large κ; and of the quantiles' spread."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import QuantileHead, critic_std, quantile_loss, quantile_spread
from rl4llm.testing.reference import heads as reference
from rl4llm.testing.strategies import masks, tensors

FEWER = settings(max_examples=settings.default.max_examples // 3)
EXACT = {"rtol": 0, "atol": 1e-10}
N = 32


@st.composite
def cases(draw):
    """Quantiles, in any order, returns and a mask."""
    mask = draw(masks())
    shape = tuple(mask.shape)
    return draw(tensors((*shape, draw(st.integers(1, 6))), -2, 2)), draw(tensors(shape, -2, 2)), mask


def taus(count):
    return (2 * torch.arange(1, count + 1, dtype=torch.float64) - 1) / (2 * count)


def slope(z, returns, kappa):
    """Gradient of the mean loss over returns, one response each, at shared quantiles."""
    leaf = z.clone().requires_grad_()
    quantiles = leaf.expand(len(returns), 1, -1)
    mask = torch.ones(len(returns), 1, dtype=torch.bool)
    quantile_loss(quantiles, returns[:, None], mask, kappa=kappa).mean().backward()
    return leaf.grad


def coins(successes, count):
    """Returns of 1 for so many of so many responses, of 0 for the others."""
    return (torch.arange(count) < successes).double()


@FEWER
@given(cases(), st.sampled_from([0.01, 0.5, 10.0]))
def test_it_equals_the_reference(case, kappa):
    found, expected = quantile_loss(*case, kappa=kappa), reference.quantile_loss(*case, kappa)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(quantile_spread(case[0]), reference.quantile_spread(case[0]), rtol=0, atol=1e-10)


@FEWER
@given(cases(), st.sampled_from([0.01, 0.5, 10.0]))
def test_the_gradient_is_the_weighed_and_clipped_error(case, kappa):
    z, returns, mask = case
    leaf = z.clone().requires_grad_()
    quantile_loss(leaf, returns, mask, kappa=kappa).sum().backward()
    u, tau = returns[..., None] - z, taus(z.shape[-1])
    weight = torch.where(u < 0, 1 - tau, tau) / z.shape[-1]
    expected = torch.where(mask[..., None], -weight * (u / kappa).clamp(-1, 1), 0.0)
    torch.testing.assert_close(leaf.grad, expected, **EXACT)


@pytest.mark.parametrize("successes", [1, 3, 8, 13])
@pytest.mark.parametrize("kappa", [1e-4, 1e-2, 0.3])
def test_of_binary_returns_the_best_quantiles_are_zero_up_to_the_share_of_failures_and_one_beyond(successes, kappa):
    # Near 0 the errors of failures are quadratic, those of successes linear: (1 − p)(1 − τ) z/κ = p τ; likewise near 1.
    returns, p, tau = coins(successes, 16), successes / 16, taus(N)
    odds = p * tau / ((1 - p) * (1 - tau))
    best = torch.where(odds < 1, kappa * odds, 1 - kappa / odds)
    torch.testing.assert_close(slope(best, returns, kappa), torch.zeros(N, dtype=torch.float64), **EXACT)
    assert (slope(best - kappa, returns, kappa) < 0).all()
    assert (slope(best + kappa, returns, kappa) > 0).all()
    if kappa == 1e-4:
        value = QuantileHead(count=N).value(best[None, None]).item()
        assert value == pytest.approx(p, abs=1 / (2 * N) + kappa)
        spread = quantile_spread(best[None, None]).item()
        assert spread == pytest.approx(math.sqrt(value * (1 - value)), abs=2 * kappa)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kappa", [1.0, 7.0])
def test_from_the_range_of_the_returns_on_they_are_expectiles_and_their_mean_is_drawn_to_the_middle(p, kappa):
    returns, tau = coins(round(10 * p), 10), taus(N)
    expectiles = tau * p / (tau * p + (1 - tau) * (1 - p))
    torch.testing.assert_close(slope(expectiles, returns, kappa), torch.zeros(N, dtype=torch.float64), **EXACT)
    known = {0.1: 0.184, 0.5: 0.5, 0.9: 0.816}  # the trap: not p
    assert expectiles.mean().item() == pytest.approx(known[p], abs=5e-4)


def test_one_output_is_the_mean_for_a_large_kappa_and_the_median_for_a_small_one():
    returns = torch.tensor([0.0, 0.1, 0.2, 0.6, 1.0], dtype=torch.float64)
    assert abs(slope(returns.mean()[None], returns, kappa=1.0)).item() < 1e-10
    for kappa in (1e-1, 1e-3, 1e-6):
        assert abs(slope(returns.median()[None], returns, kappa)).item() < 1e-10
    assert abs(slope(returns.mean()[None], returns, kappa=1e-3)).item() > 0.05


def test_a_small_kappa_is_the_error_itself():
    u = torch.linspace(-1, 1, 21, dtype=torch.float64)[None]
    loss = quantile_loss(torch.zeros(1, 21, 1, dtype=torch.float64), u, u.isfinite(), kappa=1e-12)
    torch.testing.assert_close(loss, u.abs() / 2, **EXACT)


@FEWER
@given(cases())
def test_the_mean_and_the_spread_do_not_see_the_order_of_the_quantiles(case):
    z = case[0]
    head, ordered = QuantileHead(count=z.shape[-1]), z.sort(-1).values
    torch.testing.assert_close(head.value(ordered), head.value(z), **EXACT)
    torch.testing.assert_close(quantile_spread(ordered), quantile_spread(z), **EXACT)
    assert torch.equal(quantile_spread(z), critic_std(z.permute(2, 0, 1)))


def test_the_spread_of_equal_quantiles_is_zero_and_that_of_halves_is_half_their_distance():
    z = torch.tensor([[[0.1, 0.1, 0.1], [0.3, 0.3, 0.3]]])
    assert torch.equal(quantile_spread(z), torch.zeros(1, 2))
    assert quantile_spread(torch.tensor([[[0.2, 0.8]]])).item() == pytest.approx(0.3)
    assert not quantile_spread(z.requires_grad_()).requires_grad


@FEWER
@given(cases(), st.sampled_from([math.nan, math.inf, -math.inf, 1e30]), st.integers(1, 3))
def test_masked_positions_are_never_read_and_padding_is_inert(case, garbage, extra):
    z, returns, mask = case
    clean = quantile_loss(*case)
    dirty = z.masked_fill(~mask[..., None], garbage).requires_grad_()
    loss = quantile_loss(dirty, returns.masked_fill(~mask, garbage), mask)
    assert torch.equal(loss, clean)
    assert not clean[~mask].any()
    loss.sum().backward()
    assert dirty.grad.isfinite().all()
    assert not dirty.grad[~mask].any()
    pad = torch.nn.functional.pad
    wider = quantile_loss(pad(z, (0, 0, 0, extra)), pad(returns, (0, extra)), pad(mask, (0, extra)))
    assert torch.equal(wider, pad(clean, (0, extra)))


def test_golden_number():
    # τ = ¼, ¾; R = ½, κ = ¼. z = 0: u = ½, ¼ (½ − ⅛) = 3/32. z = 1: u = −½, ¼ · ⅜ = 3/32. Their mean is 3/32.
    z, mask = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.ones(1, 2, dtype=torch.bool)
    # The other way round both weights are ¾: 9/32.
    loss = quantile_loss(z, torch.full((1, 2), 0.5), mask, kappa=0.25)
    torch.testing.assert_close(loss, torch.tensor([[3 / 32, 9 / 32]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_they_compute_wide_and_keep_the_dtype(dtype):
    z = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    returns, mask = torch.full((2, 9), 0.25), torch.ones(2, 9, dtype=torch.bool)
    for narrow, wide in [
        (quantile_loss(z, returns, mask), quantile_loss(z.double(), returns, mask)),
        (quantile_spread(z), quantile_spread(z.double())),
    ]:
        assert narrow.dtype == dtype
        torch.testing.assert_close(narrow, wide.to(dtype), rtol=1e-5 if dtype != torch.bfloat16 else 1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "kappa", "message"),
    [
        (((2, 3, 4), (2, 2), (2, 2)), 0.1, r"quantile_loss: quantiles has shape \(2, 3, 4\), response_mask \(2, 2\)"),
        (((2, 3, 4), (3, 2), (2, 3)), 0.1, r"quantile_loss: returns has shape \(3, 2\), response_mask \(2, 3\)"),
        (((2, 3), (2, 3), (2, 3)), 0.1, "expected 3 axes: batch time quantile"),
        (((2, 3, 0), (2, 3), (2, 3)), 0.1, "there must be at least 1 quantile"),
        (((2, 3, 4), (2, 3), (2, 3)), 0.0, r"kappa must be in \(0, inf\), got 0.0"),
        (((2, 3, 4), (2, 3), (2, 3)), -1.0, r"kappa must be in \(0, inf\)"),
        (((2, 3, 4), (2, 3), (2, 3)), math.inf, r"kappa must be in \(0, inf\)"),
    ],
)
def test_shapes_and_options_are_checked(unchecked_shapes, shapes, kappa, message):
    z, returns, mask = shapes
    with pytest.raises(UsageError, match=message):
        quantile_loss(torch.zeros(z), torch.zeros(returns), torch.ones(mask, dtype=torch.bool), kappa=kappa)
    if "shape" not in message and "kappa" not in message:
        with pytest.raises(UsageError, match=message.replace("quantile_loss", "quantile_spread")):
            quantile_spread(torch.zeros(z))
