"""The leave-one-out mean, the coefficient that ties critics to it, and the switch between them."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rl4llm.advantages import leave_one_out
from rl4llm.checks import UsageError
from rl4llm.critics import blend_coefficient, critic_mean, leave_one_out_mean, trusted_mean
from rl4llm.testing.reference import values as reference
from rl4llm.testing.strategies import group_ids, rollouts, scores, tensors
from tests.critics.helpers import NAN, doubles

FEWER = settings(max_examples=settings.default.max_examples // 3)


def close(x, y, atol=1e-9):
    torch.testing.assert_close(torch.as_tensor(x), torch.as_tensor(y, dtype=torch.float64), rtol=1e-6, atol=atol)


@st.composite
def groups(draw):
    """Scores, some NaN, and ids of ragged groups in any order."""
    batch = draw(st.integers(1, 9))
    return draw(scores(batch)), draw(group_ids(batch))


# --- the mean of the others -------------------------------------------------------------------------------------------


@given(groups())
def test_the_mean_of_the_others_equals_its_reference(drawn):
    close(leave_one_out_mean(*drawn), reference.leave_one_out_mean(*drawn))


@given(groups())
def test_where_there_are_siblings_the_score_less_the_mean_is_the_leave_one_out_advantage(drawn):
    numbers, ids = drawn
    scored = ~numbers.isnan()
    has = torch.tensor([bool((scored & (ids == own)).sum() > 1) for own in ids])
    expected = leave_one_out(*drawn)
    close((numbers - leave_one_out_mean(*drawn))[scored & has], expected[scored & has])


@given(groups(), st.sampled_from([0.1, -1.0, 1 / 3, 1e4]))
def test_the_mean_of_equal_scores_is_exactly_that_score(drawn, score):
    numbers, ids = drawn
    equal = torch.where(numbers.isnan(), numbers, score)
    assert (leave_one_out_mean(equal, ids)[~equal.isnan()] == score).all()


@given(groups(), st.integers(0, 8), st.sampled_from([0.0, 1.0, -3.0]))
def test_no_response_has_a_say_in_its_own_mean(drawn, row, other):
    numbers, ids = drawn
    row %= len(ids)
    changed = numbers.clone()
    changed[row] = other
    assume((~numbers.isnan()).sum() - int(not numbers[row].isnan()) > 0)
    close(leave_one_out_mean(changed, ids)[row], leave_one_out_mean(numbers, ids)[row])


def test_the_mean_of_the_others_by_hand():
    numbers, ids = doubles(1.0, 0.0, NAN, 5.0, NAN), torch.tensor([2, 2, 2, 7, 9])
    # An unscored response gets the mean of its siblings; one alone that of the batch.
    assert leave_one_out_mean(numbers, ids).tolist() == [0.0, 1.0, 0.5, 0.5, 2.0]
    assert leave_one_out_mean(doubles(3.0, NAN), torch.tensor([0, 1])).tolist() == [3.0, 3.0]
    assert leave_one_out_mean(doubles(NAN), torch.tensor([0])).tolist() == [0.0]


# --- the coefficient --------------------------------------------------------------------------------------------------


@st.composite
def blends(draw):
    """Scores, baselines, values and a mask, where the values and baselines differ."""
    batch = draw(rollouts())
    numbers = batch.scores.clamp(-10, 10)
    base = draw(tensors((len(batch),)))
    mask = batch.response_mask & ~numbers.isnan()[:, None]
    assume(((batch.values - base[:, None])[mask].abs() > 1e-3).any())
    return numbers, base, batch.values, batch.response_mask


def error(rho, numbers, base, values, mask):
    """Σ (R − b)²."""
    mask = mask & ~numbers.isnan()[:, None]
    blended = (1 - rho) * base[:, None] + rho * values
    return torch.where(mask, (numbers[:, None] - blended) ** 2, 0.0).sum()


@FEWER
@given(blends(), st.sampled_from([0.0, 1e-6, 0.5]))
def test_the_fit_equals_its_reference(drawn, ridge):
    expected = reference.blend_coefficient(*drawn, ridge)
    close(blend_coefficient(*drawn, ridge=ridge, clip=False), expected)
    close(blend_coefficient(*drawn, ridge=ridge), min(max(expected, 0.0), 1.0))


@FEWER
@given(blends(), st.floats(-2.0, 2.0))
def test_no_other_coefficient_has_a_smaller_squared_advantage(drawn, other):
    free, kept = blend_coefficient(*drawn, clip=False), blend_coefficient(*drawn)
    slack = 1e-9 * (1 + error(0.0, *drawn))
    assert error(free, *drawn) <= error(other, *drawn) + slack
    for end in (0.0, 1.0, min(max(other, 0.0), 1.0)):
        assert error(kept, *drawn) <= error(end, *drawn) + slack


@FEWER
@given(blends(), st.sampled_from([0.5, 2.0, -4.0]), st.sampled_from([0.0, -1.0, 8.0]), st.sampled_from([0.0, 0.5]))
def test_the_unit_of_the_scores_does_not_matter(drawn, scale, shift, ridge):
    numbers, base, values, mask = drawn
    moved = [scale * x + shift for x in (numbers, base, values)]
    options = {"ridge": ridge, "clip": False}
    close(blend_coefficient(*moved, mask, **options), blend_coefficient(*drawn, **options), atol=1e-6)


@FEWER
@given(blends(), st.floats(-1.0, 1.0), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_the_fit_enters_a_moving_average(drawn, previous, decay):
    fit = blend_coefficient(*drawn)
    close(blend_coefficient(*drawn, previous=previous, decay=decay), decay * previous + (1 - decay) * fit.item())


@FEWER
@given(rollouts(), st.floats(-1.0, 1.0), st.sampled_from([0.0, 0.5]))
def test_where_nothing_can_be_fitted_it_stays(batch, previous, decay):
    options = {"previous": previous, "decay": decay}
    base = torch.full_like(batch.scores, 0.1)
    third = torch.full_like(batch.values, 0.1 + 1e-17)
    none = torch.zeros_like(batch.response_mask)
    unscored = torch.full_like(batch.scores, NAN)
    for given_ in (
        (batch.scores, base, third, batch.response_mask),  # V = B
        (batch.scores, base, batch.values, none),
        (unscored, base, batch.values, batch.response_mask),
    ):
        assert blend_coefficient(*given_, **options).item() == previous


@FEWER
@given(blends(), st.sampled_from([torch.nan, torch.inf, 1e30]))
def test_masked_positions_and_unscored_rows_are_not_read(drawn, garbage):
    numbers, base, values, mask = drawn
    read = mask & ~numbers.isnan()[:, None]
    dirty = torch.where(read, values, garbage)
    dirty_base = torch.where(numbers.isnan(), garbage, base)
    assert torch.equal(blend_coefficient(numbers, dirty_base, dirty, mask), blend_coefficient(*drawn))


def test_the_fit_by_hand():
    # R − B = (½, −½), V − B = (¼, −¼ + ...): products ⅛ + 0 and squares 1/16 + ¼: row 0 has tokens ¼ and 0, row 1 ½.
    numbers, base, mask = doubles(1.0, 0.0), doubles(0.5, 0.5), torch.tensor([[True, True], [True, False]])
    values = torch.tensor([[0.75, 0.5], [1.0, 9.0]], dtype=torch.float64)
    # Σ (R − B)(V − B) = ½·¼ + ½·0 − ½·½ = −⅛; Σ (V − B)² = 1/16 + 0 + ¼ = 5/16.
    close(blend_coefficient(numbers, base, values, mask, clip=False), -0.4)
    assert blend_coefficient(numbers, base, values, mask) == 0.0
    # Ridge 1 adds max(5/48, ¼) to the mean 5/48: −1/24 / (17/48).
    close(blend_coefficient(numbers, base, values, mask, ridge=1.0, clip=False), -2 / 17)


def test_it_computes_wide_and_carries_no_graph():
    half, mask = torch.full((1, 2), 0.5, dtype=torch.bfloat16, requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    found = blend_coefficient(torch.ones(1), torch.zeros(1), half, mask, clip=False)
    assert (found.dtype, found.item(), found.requires_grad) == (torch.float32, 2.0, False)


def test_rows_that_do_not_match_are_named(unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"^blend_coefficient: scores has shape \(3,\), response_mask \(2, 3\)"):
        blend_coefficient(torch.zeros(3), torch.zeros(3), torch.zeros(2, 3), mask)


# --- the switch -------------------------------------------------------------------------------------------------------


@FEWER
@given(rollouts(), st.data())
def test_it_is_the_mean_of_the_critics_above_the_threshold_or_the_baseline(batch, data):
    critics = batch.critic_values
    explained = data.draw(tensors((len(critics),), -1.0, 1.0))
    threshold = data.draw(st.sampled_from([0.0, 0.5, -torch.inf, torch.inf, *explained.tolist()]))
    trusted = [m for m, ev in enumerate(explained.tolist()) if ev > threshold]
    expected = sum(critics[m] for m in trusted) / len(trusted) if trusted else batch.advantages
    found = trusted_mean(critics, explained, batch.advantages, threshold=threshold)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_all_trusted_is_the_mean_of_the_critics_and_one_its_own_value():
    critics = torch.rand(3, 2, 4, dtype=torch.float64)
    baselines = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(trusted_mean(critics, torch.ones(3).double(), baselines), critic_mean(critics))
    assert torch.equal(trusted_mean(critics, doubles(-1.0, 0.1, 0.0), baselines), critics[1])


def test_shapes_of_the_switch_are_named(unchecked_shapes):
    critics = torch.zeros(2, 3, 4)
    with pytest.raises(UsageError, match=r"^trusted_mean: explained_variances has shape \(3,\).*expected \(2,\)"):
        trusted_mean(critics, torch.zeros(3), torch.zeros(3, 4))
    with pytest.raises(UsageError, match=r"^trusted_mean: baselines has shape \(1, 4\).*expected \(3, 4\)"):
        trusted_mean(critics, torch.zeros(2), torch.zeros(1, 4))
