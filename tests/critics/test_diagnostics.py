"""Laws of the critics' diagnostics."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import (
    calibration_error,
    critic_std,
    explained_variance,
    rank_correlation,
    spread_error_correlation,
)
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import rollouts

FEWER = settings(max_examples=settings.default.max_examples // 3)  # whole batches are slow to draw
GARBAGE = st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30])


def both(critic_values, returns, mask):
    return explained_variance(critic_values[0], returns, mask), spread_error_correlation(critic_values, returns, mask)


@FEWER
@given(rollouts())
def test_explained_variance_equals_the_reference(batch):
    parts = batch.values, batch.returns, batch.response_mask
    assert explained_variance(*parts).item() == pytest.approx(reference.explained_variance(*parts), rel=1e-9, abs=1e-9)


@FEWER
@given(rollouts(), st.floats(-5, 5))
def test_explained_variance_of_the_returns_is_one_of_constants_zero_and_of_constant_returns_zero(batch, shift):
    returns, mask = batch.returns, batch.response_mask
    some = 1.0 if returns[mask].unique().numel() > 1 else 0.0
    assert explained_variance(returns + shift, returns, mask).item() == pytest.approx(some, abs=1e-12)
    constant = torch.full_like(returns, shift)
    assert explained_variance(constant, returns, mask).item() == pytest.approx(0.0, abs=1e-12)
    assert explained_variance(returns, constant, mask).item() == 0.0


def test_returns_that_vary_by_rounding_do_not_vary():
    values, mask = torch.randn(64, 13, generator=torch.Generator().manual_seed(0)), torch.ones(64, 13, dtype=torch.bool)
    returns = (1 - 3 * values) + 3 * values  # as an estimator computes them
    assert returns.unique().numel() > 1
    assert explained_variance(values, returns, mask).item() == 0.0
    assert explained_variance(300 + values, 300 + returns, mask).item() == 0.0


def test_golden_numbers():
    # R = (0, 4): variance 4. V = (0, 2): R − V = (0, 2), variance 1. EV = 3/4. V = (4, 0): R − V = (−4, 4), EV = −3.
    mask, returns = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.0, 4.0]])
    assert explained_variance(torch.tensor([[0.0, 2.0]]), returns, mask).item() == 0.75
    assert explained_variance(torch.tensor([[4.0, 0.0]]), returns, mask).item() == -3.0
    # Spread (0, 1, 2), mean (0, 1, 2): against R = 0 the errors are (0, 1, 2), against R = 2 they are (2, 1, 0).
    critic_values, three = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 2.0, 4.0]]]), torch.ones(1, 3, dtype=torch.bool)
    assert spread_error_correlation(critic_values, torch.zeros(1, 3), three).item() == pytest.approx(1.0, abs=1e-6)
    assert spread_error_correlation(critic_values, torch.full((1, 3), 2.0), three).item() == pytest.approx(-1, abs=1e-6)


@FEWER
@given(rollouts())
def test_the_correlation_is_pearsons(batch):
    mask = batch.response_mask
    spread = critic_std(batch.critic_values)[mask]
    error = (batch.critic_values.mean(0) - batch.returns).abs()[mask]
    result = spread_error_correlation(batch.critic_values, batch.returns, mask)
    assert -1 <= result <= 1
    assume(spread.numel() > 2 and spread.std() > 1e-6 and error.std() > 1e-6)
    assert torch.allclose(result, torch.corrcoef(torch.stack([spread, error]))[0, 1], atol=1e-9)


@FEWER
@given(rollouts(critics=1))
def test_the_correlation_of_one_critic_is_zero(batch):
    assert spread_error_correlation(batch.critic_values, batch.returns, batch.response_mask).item() == 0.0
    twins = batch.critic_values.expand(3, -1, -1)
    assert spread_error_correlation(twins, batch.returns, batch.response_mask).item() == 0.0


def test_rounding_takes_no_correlation_beyond_one():
    for seed in range(6):
        spread = torch.rand(1, 7, generator=torch.Generator().manual_seed(seed))
        twins = torch.stack([torch.zeros_like(spread), 2 * spread])
        result = spread_error_correlation(twins, torch.zeros_like(spread), torch.ones(1, 7, dtype=torch.bool))
        assert 0.9999 < result <= 1


@FEWER
@given(rollouts(), GARBAGE)
def test_masked_positions_are_never_read(batch, garbage):
    mask = batch.response_mask
    critic_values = torch.where(mask, batch.critic_values, torch.full_like(batch.critic_values, garbage))
    returns = torch.where(mask, batch.returns, torch.full_like(batch.returns, garbage))
    for clean, poisoned in zip(
        both(batch.critic_values, batch.returns, mask), both(critic_values, returns, mask), strict=True
    ):
        assert torch.equal(clean, poisoned)


@FEWER
@given(rollouts(), st.randoms())
def test_rows_permute_and_padding_is_inert(batch, random):
    rows = random.sample(range(len(batch)), len(batch))
    parts = batch.critic_values, batch.returns, batch.response_mask
    moved = batch.critic_values[:, rows], batch.returns[rows], batch.response_mask[rows]
    padded = [torch.nn.functional.pad(x, (0, 2)) for x in parts]
    for same in (moved, padded):
        for one, other in zip(both(*parts), both(*same), strict=True):
            assert torch.allclose(one, other, atol=1e-9)


def test_nothing_trained_is_zero_and_bf16_is_computed_wide_without_graph():
    x, none = torch.full((2, 2, 3), torch.nan, requires_grad=True), torch.zeros(2, 3, dtype=torch.bool)
    for result in both(x, x[0].detach(), none):
        assert result.item() == 0.0
        assert not result.requires_grad
    for result in both(x[:, :0], x[0, :0].detach(), none[:0]):
        assert result.item() == 0.0
    noise = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    v, r, mask = noise[:2], noise[2], torch.arange(50).expand(4, -1) < 40
    before = v.clone()
    for narrow, wide in zip(both(v, r, mask), both(v.double(), r.double(), mask), strict=True):
        assert narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(wide.item(), rel=1e-5)
    assert torch.equal(v, before)


def test_wrong_shapes_are_errors(unchecked_shapes):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"explained_variance: returns has shape \(2, 1\), response_mask \(2, 3\)"):
        explained_variance(x, x[:, :1], mask)
    with pytest.raises(UsageError, match=r"spread_error_correlation: critic_values has shape \(2, 3\)"):
        spread_error_correlation(x, x, mask)
    with pytest.raises(UsageError, match=r"spread_error_correlation: returns has shape \(1, 3\)"):
        spread_error_correlation(x[None], x[:1], mask)
    with pytest.raises(UsageError, match="explained_variance: response_mask must be a bool tensor"):
        explained_variance(x, x, mask.float())


# --- states with a known truth ---------------------------------------------------------------------------------------


def states():
    number = st.integers(-20, 20).map(lambda tenths: tenths / 10)
    return st.integers(0, 12).flatmap(lambda n: st.tuples(*[st.lists(number, min_size=n, max_size=n).map(doubles)] * 2))


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@FEWER
@given(states(), st.integers(1, 15))
def test_the_calibration_error_is_that_of_a_loop_over_bins(pair, bins):
    values, outcomes = pair
    ordered = sorted(range(len(values)), key=lambda i: (float(values[i]), i))
    small, larger = divmod(len(values), bins)
    total = 0.0
    for index in range(bins):
        start = index * small + min(index, larger)
        part = ordered[start : start + small + (index < larger)]
        total += abs(sum(float(values[i] - outcomes[i]) for i in part))
    expected = total / len(values) if len(values) else 0.0
    assert calibration_error(values, outcomes, bins).item() == pytest.approx(expected, abs=1e-9)
    assert calibration_error(values, values, bins).item() == 0.0


def test_one_bin_sees_the_offset_alone_and_more_bins_see_more():
    values, outcomes = doubles([0.5, 0.5, 0.6, 0.6]), doubles([0.0, 0.0, 1.0, 1.0])
    assert calibration_error(values, outcomes, 1).item() == pytest.approx(0.05)
    assert calibration_error(values, outcomes, 2).item() == pytest.approx(0.45)


@FEWER
@given(states(), st.sampled_from([torch.exp, lambda x: x**3, lambda x: 2 * x - 7]))
def test_the_rank_correlation_is_spearmans_and_sees_order_alone(pair, rising):
    x, y = pair
    result = rank_correlation(x, y)

    def ranks(side):
        return doubles(
            [(sum(other < one for other in side) + sum(other <= one for other in side) + 1) / 2 for one in side]
        )

    assert -1 <= result <= 1
    assert torch.allclose(rank_correlation(rising(x), y), result, atol=1e-9)
    assert torch.allclose(rank_correlation(-x, y), -result, atol=1e-9)
    if len(x) > 1 and len(x.unique()) > 1 and len(y.unique()) > 1:
        assert torch.allclose(result, torch.corrcoef(torch.stack([ranks(x), ranks(y)]))[0, 1], atol=1e-9)
    else:
        assert result.item() == 0.0


def test_states_that_do_not_match_are_one_line(unchecked_shapes):
    for function in (calibration_error, rank_correlation):
        with pytest.raises(UsageError, match=rf"{function.__name__}: .*\(2,\).*\(3,\); give both one number per state"):
            function(torch.zeros(2), torch.zeros(3))
    with pytest.raises(UsageError, match="bins must be a whole number of at least 1"):
        calibration_error(torch.zeros(2), torch.zeros(2), 0)
