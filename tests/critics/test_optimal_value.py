"""V*: laws of the function, and the table that holds it."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import OptimalValue, optimal_value
from rl4llm.testing.reference import values as reference
from rl4llm.testing.strategies import group_ids, rollouts
from tests.critics.helpers import NAN, Survey, World, batch_of, doubles, unsurveyed

BETAS = st.sampled_from([1e-3, 0.1, 0.5, 2.0, 100.0, 1e9, math.inf])


@st.composite
def groups(draw):
    """Scores (some NaN) and ids of ragged groups in any order."""
    batch = draw(st.integers(1, 8))
    number = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-10, 10, width=32))
    scores = draw(st.lists(st.one_of(number, number, st.just(NAN)), min_size=batch, max_size=batch))
    return doubles(*scores), draw(group_ids(batch))


@given(groups(), BETAS)
def test_it_equals_the_reference(drawn, beta):
    expected = reference.optimal_value(*drawn, beta)
    # The reference, without the shift by one, loses digits in proportion to β.
    torch.testing.assert_close(
        optimal_value(*drawn, beta=beta), expected, rtol=1e-9, atol=1e-9 + 1e-15 * min(beta, 1e9)
    )


@given(groups(), BETAS, BETAS)
def test_it_lies_between_mean_and_maximum_and_falls_with_beta(drawn, first, second):
    scores, ids = drawn
    low, high = sorted((first, second))
    sharp, soft = optimal_value(scores, ids, beta=low), optimal_value(scores, ids, beta=high)
    mean, largest = optimal_value(scores, ids, beta=math.inf), optimal_value(scores, ids, beta=1e-300)
    assert (largest + 1e-12 >= sharp).all()
    assert (sharp + 1e-12 >= soft).all()
    assert (soft + 1e-12 >= mean).all()
    for group in ids.unique():
        own = scores[(ids == group) & ~scores.isnan()]
        expected = (own.mean().item(), own.max().item()) if len(own) else (0.0, 0.0)
        got = (mean[ids == group], largest[ids == group])
        for value, number in zip(got, expected, strict=True):
            torch.testing.assert_close(value, torch.full_like(value, number), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_beta_loses_no_digits(dtype):
    scores = torch.tensor([0.0, 1.0, 0.3], dtype=dtype)
    got = optimal_value(scores, torch.tensor([0, 0, 0]), beta=1e6)
    torch.testing.assert_close(got, torch.full_like(scores, 1.3 / 3), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("right", "expected"), [*enumerate([0, 0.2935, 0.4772, 0.6113, 0.7169, 0.8040, 0.8782, 0.9428, 1])]
)
def test_binary_scores_have_a_closed_form(right, expected):
    scores = doubles(*([1.0] * right + [0.0] * (8 - right)))
    value = optimal_value(scores, torch.zeros(8, dtype=torch.long))[0].item()
    assert value == pytest.approx(expected, abs=5e-5)
    assert value == pytest.approx(0.5 * math.log(1 + right / 8 * (math.exp(2) - 1)), abs=1e-12)


@given(groups(), BETAS, st.floats(-5, 5), st.data())
def test_it_shifts_with_the_scores_and_follows_rows_and_not_names(drawn, beta, shift, data):
    scores, ids = drawn
    value = optimal_value(scores, ids, beta=beta)
    scored = torch.tensor([not scores[ids == group].isnan().all() for group in ids])
    moved = value + shift * scored.double()
    torch.testing.assert_close(optimal_value(scores + shift, ids, beta=beta), moved, rtol=0, atol=1e-9)
    order = torch.tensor(data.draw(st.permutations(range(len(scores)))))
    torch.testing.assert_close(optimal_value(scores[order], ids[order], beta=beta), value[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(optimal_value(scores, 7 - 3 * ids, beta=beta), value, rtol=0, atol=1e-12)


def test_extreme_scores_do_not_overflow():
    scores, ids = torch.tensor([3e4, -3e4, 0.0, 0.0]), torch.tensor([0, 0, 1, 1])
    assert optimal_value(scores, ids, beta=1e-3).tolist() == pytest.approx([3e4, 3e4, 0, 0])
    assert optimal_value(-scores, ids, beta=1e-3).tolist() == pytest.approx([3e4, 3e4, 0, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_it_keeps_the_dtype_and_returns_no_graph(dtype):
    scores = torch.tensor([1, 0]).to(dtype).requires_grad_(dtype.is_floating_point)
    value = optimal_value(scores, torch.tensor([0, 0]))
    assert value.dtype == (torch.float32 if dtype == torch.int64 else dtype)
    assert not value.requires_grad
    assert optimal_value(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("beta", [0.0, -1.0, NAN])
def test_beta_is_positive(beta):
    with pytest.raises(UsageError, match=r"beta must be in \(0, inf\]"):
        optimal_value(torch.zeros(2), torch.tensor([0, 0]), beta=beta)
    with pytest.raises(UsageError, match=r"OptimalValue: beta must be in \(0, inf\]"):
        OptimalValue(beta=beta)


def test_shapes_are_checked(unchecked_shapes):
    with pytest.raises(UsageError, match=r"optimal_value: scores has shape \(3,\), group_ids \(2,\)"):
        optimal_value(torch.zeros(3), torch.tensor([0, 0]))


# --- the table ------------------------------------------------------------------------------------------------------

FOUND = {7: [1.0, 1.0], 3: [0.0, 1.0, NAN], 5: [0.0, 0.0], 9: [NAN, NAN], 4: []}
HALF = 0.5 * math.log((1 + math.exp(2)) / 2)


def filled(found=FOUND, **options):
    table = OptimalValue(**options).build("policy")
    table.prepare(Survey(found))
    return table


def test_the_survey_is_asked_once_for_the_samples():
    survey, table = Survey(FOUND), OptimalValue(samples=5, cache="scores.jsonl").build("policy")
    for _ in range(2):
        table.prepare(survey)
    assert survey.calls == [(5, "scores.jsonl")]
    assert not table.learners


def test_values_go_by_uid_and_are_zero_where_nothing_is_trained():
    batch = batch_of([3, 7, 3, 5, 9], [1.0] * 5, mask=[[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1]])
    values = filled().values(batch, World().context).values
    expected = doubles(HALF, 1.0, HALF, 0.0, 0.0)[:, None] * batch.response_mask
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    assert filled(beta=math.inf).values(batch, World().context).values[0, 0] == 0.5


@given(rollouts())
def test_values_are_those_of_the_function(batch):
    found = {uid: [float(uid), 0.0, -1.0] for uid in batch.prompt_uids.tolist()}
    values = filled(found, beta=0.3).values(batch, World().context).values
    for row, uid in enumerate(batch.prompt_uids.tolist()):
        own = optimal_value(doubles(*found[uid]), torch.zeros(3, dtype=torch.long), beta=0.3)[0]
        assert torch.equal(values[row], own * batch.response_mask[row])


@pytest.mark.parametrize(
    ("keep", "expected"), [("all", [1, 1, 1, 1, 1]), ("solved", [1, 1, 0, 0, 0]), ("mixed", [0, 1, 0, 0, 0])]
)
def test_the_filter_gives_dropped_prompts_no_priority(keep, expected):
    assert filled(keep=keep).priorities(torch.tensor([7, 3, 5, 9, 4])).tolist() == expected


@pytest.mark.parametrize(("keep", "found"), [("solved", {1: [0.0]}), ("mixed", {1: [0.0], 2: [1.0, NAN]})])
def test_a_filter_that_drops_everything_is_one_line(keep, found):
    remedy = "set keep='all', raise samples, or take other prompts or another policy"
    with pytest.raises(UsageError, match=f"OptimalValue: keep='{keep}' drops all {len(found)} prompts; {remedy}"):
        filled(found, keep=keep)


def test_prompts_that_were_not_surveyed_are_one_line():
    with pytest.raises(UsageError, match=r"the prompt of uid 8 is not among the 5 surveyed ones; .* start one"):
        filled().values(batch_of([3, 8], [1.0, 1.0]), World().context)
    with pytest.raises(UsageError, match="the prompt of uid 8 is not"):
        filled().priorities(torch.tensor([8]))
    with pytest.raises(UsageError, match="OptimalValue needs prompt identities"):
        filled().values(batch_of([-1], [1.0]), World().context)


def test_the_table_travels_bit_for_bit_and_is_not_surveyed_again():
    table, file = filled(beta=0.3, keep="solved"), io.BytesIO()
    torch.save(table.state_dict(), file)
    file.seek(0)
    restored = OptimalValue(beta=0.3, keep="solved").build("policy")
    restored.load_state_dict(torch.load(file, weights_only=True))
    restored.prepare(unsurveyed)
    batch, uids = batch_of([5, 3, 7, 4], [1.0] * 4), torch.tensor([9, 3, 7, 4])
    assert torch.equal(restored.values(batch, World().context).values, table.values(batch, World().context).values)
    assert torch.equal(restored.priorities(uids), table.priorities(uids))
    other = OptimalValue(keep="mixed").build("policy")
    other.load_state_dict(filled({1: [1.0]}).state_dict())
    with pytest.raises(UsageError, match="drops all 1 prompts"):  # the filter is a choice of the run, not of the table
        other.prepare(unsurveyed)


@pytest.mark.parametrize("options", [{"samples": 0}, {"keep": "best"}])
def test_options_outside_their_domain_are_one_line(unchecked_shapes, options):
    with pytest.raises(UsageError, match="OptimalValue: "):
        OptimalValue(**options)


def test_one_sample_is_enough_and_a_prompt_without_identity_is_named():
    assert OptimalValue(samples=1).samples == 1
    with pytest.raises(UsageError, match=r"^OptimalValue needs prompt identities"):
        OptimalValue().build("policy").prepare(Survey({-1: [1.0]}))
