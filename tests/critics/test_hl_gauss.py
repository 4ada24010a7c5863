"""Laws of HL-Gauss: the histogram loss and the value that it stands for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import binary_value_loss, hl_gauss_loss, hl_gauss_value
from rl4llm.testing.reference import heads as reference
from rl4llm.testing.strategies import masks, tensors

FEWER = settings(max_examples=settings.default.max_examples // 3)
ONE = torch.ones(1, 1, dtype=torch.bool)
TARGETS = ["mass", "density"]
each_target = pytest.mark.parametrize("kind", TARGETS)


@st.composite
def cases(draw):
    """Logits, returns, of which some lie beyond the support, and a mask."""
    mask = draw(masks())
    bins = draw(st.integers(2, 9))
    return draw(tensors((*mask.shape, bins))), draw(tensors(tuple(mask.shape), -0.3, 1.3)), mask


def target(y, bins=51, **options):
    """pₖ, read off the gradient: softmax − p at equal logits."""
    logits = torch.zeros(1, 1, bins, dtype=torch.float64, requires_grad=True)
    hl_gauss_loss(logits, torch.tensor([[y]], dtype=torch.float64), ONE, **options).backward()
    return 1 / bins - logits.grad[0, 0]


@FEWER
@given(cases(), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from(TARGETS))
def test_they_equal_the_reference(case, sigma, kind):
    expected = reference.hl_gauss_loss(*case, -0.1, 1.1, sigma, kind)
    torch.testing.assert_close(hl_gauss_loss(*case, sigma=sigma, target=kind), expected, rtol=1e-9, atol=1e-9)
    expected = reference.hl_gauss_value(case[0], 0.0, 3.0)
    torch.testing.assert_close(hl_gauss_value(case[0], low=0.0, high=3.0), expected)


@each_target
@pytest.mark.parametrize("y", [0.0, 0.3, 0.5, 1.0])
def test_the_histogram_has_mass_one_and_the_return_as_its_mean(y, kind):
    p = target(y, target=kind)
    assert (p >= 0).all()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert hl_gauss_value(p.log()[None, None]).item() == pytest.approx(y, abs=2e-7)


@each_target
@pytest.mark.parametrize(("y", "end"), [(-5.0, -0.1), (1e30, 1.1), (math.inf, 1.1), (-math.inf, -0.1)])
def test_returns_beyond_the_support_count_as_its_end(y, end, kind):
    assert torch.equal(target(y, target=kind), target(end, target=kind))


def test_hand_computed_histogram():
    # Edges −1, 0, 1, σ = 1, y = 0: halves. y = 1: Φ(−1) − Φ(−2) = 0.13591 and Φ(0) − Φ(−1) = 0.34134, over their sum.
    torch.testing.assert_close(target(0.0, 2, low=-1.0, high=1.0, sigma=1.0), torch.full((2,), 0.5).double())
    expected = torch.tensor([0.135905, 0.341345], dtype=torch.float64) / 0.477250
    torch.testing.assert_close(target(1.0, 2, low=-1.0, high=1.0, sigma=1.0), expected, rtol=0, atol=1e-5)


def test_hand_computed_densities():
    # Middles −½ and ½, σ = 1, y = ½: exp(−½) and 1, over their sum.
    expected = torch.tensor([math.exp(-0.5), 1.0], dtype=torch.float64) / (1 + math.exp(-0.5))
    found = target(0.5, 2, low=-1.0, high=1.0, sigma=1.0, target="density")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@FEWER
@given(cases(), st.integers(-5, 5), st.floats(0.5, 3.0))
def test_the_value_lies_within_the_outer_middles_and_equal_logits_say_the_middle(case, start, width):
    logits, low, high = case[0], float(start), start + width
    half = width / logits.shape[-1] / 2
    value = hl_gauss_value(50 * logits, low=low, high=high)
    assert (value >= low + half - 1e-10).all()
    assert (value <= high - half + 1e-10).all()
    equal = hl_gauss_value(torch.full_like(logits, 7.0), low=low, high=high)
    torch.testing.assert_close(equal, torch.full_like(equal, (low + high) / 2), rtol=0, atol=1e-10)


@each_target
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_two_bins_around_zero_and_one_are_a_sigmoid_with_binary_cross_entropy(y, kind):
    logits = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference, mask = logits[..., 1] - logits[..., 0], torch.ones(3, 5, dtype=torch.bool)
    value = hl_gauss_value(logits, low=-0.5, high=1.5)
    torch.testing.assert_close(value, difference.sigmoid(), rtol=0, atol=1e-10)
    returns = torch.full((3, 5), y, dtype=torch.float64)
    loss = hl_gauss_loss(logits, returns, mask, low=-0.5, high=1.5, sigma=0.02, target=kind)
    torch.testing.assert_close(loss, binary_value_loss(difference, returns, mask), rtol=0, atol=1e-10)


@each_target
@pytest.mark.parametrize("y", [-0.09, 0.26, 0.5, 1.09])
def test_a_narrow_gaussian_is_one_bin_that_holds_the_return(y, kind):
    bins = 51
    p = target(y, bins, sigma=1e-5, target=kind)
    held = int((y + 0.1) / (1.2 / bins))
    torch.testing.assert_close(p, torch.eye(bins, dtype=torch.float64)[held], rtol=0, atol=1e-10)


def test_a_support_without_margin_draws_the_mean_inwards():
    biases = {}
    for low, high in [(0.0, 1.0), (-0.1, 1.1)]:
        sigma = 0.75 / 51 if low == 0 else 0.024
        p = target(1.0, 51 if low == 0 else 101, low=low, high=high, sigma=sigma)
        biases[low] = hl_gauss_value(p.log()[None, None], low=low, high=high).item() - 1
    assert biases[0.0] == pytest.approx(-0.0135, abs=1e-4)
    assert abs(biases[-0.1]) < 3e-6


@FEWER
@given(cases())
@pytest.mark.parametrize("kind", TARGETS)
def test_the_gradient_is_the_softmax_minus_the_histogram(kind, case):
    logits, returns, mask = case
    logits.requires_grad_()
    hl_gauss_loss(logits, returns, mask, target=kind).sum().backward()
    for position in mask.nonzero().tolist():
        place = tuple(position)
        expected = logits[place].softmax(-1) - target(returns[place].item(), logits.shape[-1], target=kind)
        torch.testing.assert_close(logits.grad[place], expected.detach(), rtol=0, atol=1e-9)
    assert not logits.grad[~mask].any()


@FEWER
@given(cases(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(1, 3))
def test_masked_positions_are_never_read_and_padding_is_inert(case, garbage, extra):
    logits, returns, mask = case
    clean = hl_gauss_loss(*case)
    dirty = logits.masked_fill(~mask[..., None], garbage).requires_grad_()
    loss = hl_gauss_loss(dirty, returns.masked_fill(~mask, garbage), mask)
    assert torch.equal(loss, clean)
    assert not clean[~mask].any()
    loss.sum().backward()
    assert dirty.grad.isfinite().all()
    pad = torch.nn.functional.pad
    wider = hl_gauss_loss(pad(logits, (0, 0, 0, extra)), pad(returns, (0, extra)), pad(mask, (0, extra)))
    assert torch.equal(wider, pad(clean, (0, extra)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_they_compute_wide_and_return_the_dtype_of_the_logits(dtype):
    logits = torch.randn(2, 3, 51, generator=torch.Generator().manual_seed(0)).to(dtype)
    returns, mask = torch.full((2, 3), 0.25), torch.ones(2, 3, dtype=torch.bool)
    for result, wide in [
        (hl_gauss_loss(logits, returns, mask), hl_gauss_loss(logits.double(), returns, mask)),
        (hl_gauss_value(logits), hl_gauss_value(logits.double())),
    ]:
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), wide, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 3, 4), (2, 2), (2, 2)), {}, r"hl_gauss_loss: logits has shape \(2, 3, 4\), response_mask \(2, 2\)"),
        (((2, 3, 4), (3, 2), (2, 3)), {}, r"hl_gauss_loss: returns has shape \(3, 2\), response_mask \(2, 3\)"),
        (((2, 3), (2, 3), (2, 3)), {}, "expected 3 axes: batch time bin"),
        (((2, 3, 1), (2, 3), (2, 3)), {}, "a histogram needs at least 2 bins"),
        (((2, 3, 4), (2, 3), (2, 3)), {"sigma": 0.0}, r"sigma must be in \(0, inf\)"),
        (((2, 3, 4), (2, 3), (2, 3)), {"target": "peak"}, "target must be one of 'mass', 'density', got 'peak'"),
        (((2, 3, 4), (2, 3), (2, 3)), {"low": 1.1}, "low must be below high and both finite, got low=1.1, high=1.1"),
        (((2, 3, 4), (2, 3), (2, 3)), {"low": -math.inf}, "low must be below high and both finite"),
    ],
)
def test_shapes_and_options_are_checked(unchecked_shapes, shapes, options, message):
    logits, returns, mask = shapes
    with pytest.raises(UsageError, match=message):
        hl_gauss_loss(torch.zeros(logits), torch.zeros(returns), torch.ones(mask, dtype=torch.bool), **options)
    if not {"sigma", "target"} & set(options) and "shape" not in message:
        with pytest.raises(UsageError, match=message):
            hl_gauss_value(torch.zeros(logits), **options)
