"""Group-relative estimators: GRPO, Dr. GRPO and leave-one-out."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from rl4llm.advantages import GroupRelative, LeaveOneOut, group_relative, leave_one_out
from rl4llm.checks import UsageError
from rl4llm.testing.reference import estimators as reference
from rl4llm.testing.strategies import group_ids, rollouts, scores, tensors

FUNCTIONS = {
    "group_relative": group_relative,
    "population std": lambda s, g: group_relative(s, g, unbiased=False),
    "no std": lambda s, g: group_relative(s, g, normalize_std=False),
    "leave_one_out": leave_one_out,
}
REFERENCES = {
    "group_relative": lambda s, g: reference.group_relative(s, g, True),
    "population std": lambda s, g: reference.group_relative(s, g, True, unbiased=False),
    "no std": lambda s, g: reference.group_relative(s, g, False),
    "leave_one_out": reference.leave_one_out,
}
NAN = float("nan")
# One example runs every function, so fewer examples do.
fewer = settings(max_examples=settings().max_examples // 3)
each_function = pytest.mark.parametrize("function", list(FUNCTIONS.values()), ids=list(FUNCTIONS))


def noted():
    """The functions one after the other; a failure names the one it was at."""
    for name, function in FUNCTIONS.items():
        note(name)
        yield name, function


@st.composite
def outcomes(draw, unscorable=True):
    batch = draw(st.integers(1, 9))
    return draw(scores(batch, unscorable)), draw(group_ids(batch))


@st.composite
def spread_out(draw):
    """Scores without near-ties: laws of scaling hold to rounding only where the spread is not itself rounding."""
    batch = draw(st.integers(1, 9))
    return draw(tensors((batch,))).mul(8).round() / 8, draw(group_ids(batch))


def close(x, y, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


@fewer
@given(x=outcomes())
def test_equals_one_response_at_a_time(x):
    for name, function in noted():
        close(function(*x), REFERENCES[name](*x), rtol=1e-6, atol=1e-7)


@fewer
@given(data=st.data(), x=outcomes())
def test_rows_may_be_permuted(data, x):
    rows = torch.tensor(data.draw(st.permutations(range(len(x[0])))))
    for _, function in noted():
        close(function(x[0][rows], x[1][rows]), function(*x)[rows], rtol=1e-6, atol=1e-7)


@fewer
@given(x=outcomes())
def test_groups_may_be_renumbered(x):
    for _, function in noted():
        close(function(x[0], -7 * x[1] + 3), function(*x), rtol=0, atol=0)


@fewer
@given(x=outcomes())
def test_groups_are_independent_and_may_be_split_over_calls(x):
    numbers, ids = x
    for _, function in noted():
        whole = function(*x)
        for group in ids.unique():
            rows = ids == group
            close(function(numbers[rows], ids[rows]), whole[rows], rtol=0, atol=0)


@fewer
@given(x=outcomes())
def test_advantages_of_a_group_sum_to_zero_and_unscored_responses_get_zero(x):
    numbers, ids = x
    for _, function in noted():
        advantages = function(*x)
        assert advantages.isfinite().all()
        assert (advantages[numbers.isnan()] == 0).all()
        for group in ids.unique():
            rows = ids == group
            assert abs(advantages[rows].sum()) <= 1e-12 * max(1.0, float(numbers[rows].nan_to_num().abs().sum()))


@fewer
@given(data=st.data(), x=outcomes(unscorable=False))
def test_an_unscored_response_is_as_if_it_were_not_there(data, x):
    numbers, ids = x
    extra = data.draw(st.sampled_from(ids.tolist()))
    for _, function in noted():
        with_nan = function(torch.cat([numbers, torch.tensor([NAN]).double()]), torch.cat([ids, torch.tensor([extra])]))
        close(with_nan[:-1], function(*x), rtol=0, atol=0)
        assert with_nan[-1] == 0


@fewer
@given(
    value=st.floats(-1e4, 1e4, width=16),
    size=st.integers(1, 9),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_equal_scores_give_exactly_zero(value, size, dtype):
    for number in (value, 0.1):
        for _, function in noted():
            advantages = function(torch.full((size,), number, dtype=dtype), torch.zeros(size, dtype=torch.long))
            assert (advantages == 0).all()


@each_function
def test_a_large_group_of_equal_scores_gives_exactly_zero(function):
    # The float32 sum of so many is off by much more than one rounding.
    assert (function(torch.full((200_000,), 0.1), torch.zeros(200_000, dtype=torch.long)) == 0).all()


@each_function
def test_one_scored_member_gets_zero(function):
    numbers = torch.tensor([1.0, 5.0, NAN, NAN])
    assert function(numbers, torch.tensor([0, 1, 1, 2])).tolist() == [0.0, 0.0, 0.0, 0.0]


@each_function
def test_no_responses_give_no_advantages(function):
    assert function(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


@fewer
@given(x=spread_out(), scale=st.sampled_from([0.5, 2.0, 1000.0]), shift=st.sampled_from([0.0, -3.0, 1e4]))
def test_shift_never_matters_and_scale_only_without_the_std(x, scale, shift):
    numbers, ids = x
    for name, function in noted():
        expected = function(*x) * (scale if name in ("no std", "leave_one_out") else 1.0)
        close(function(scale * numbers + shift, ids), expected, rtol=1e-6, atol=1e-7)
        close(function(-numbers, ids), -function(*x))


@given(x=spread_out())
def test_squares_sum_to_the_degrees_of_freedom(x):
    numbers, ids = x
    sample, population = group_relative(*x), group_relative(*x, unbiased=False)
    for group in ids.unique():
        rows = ids == group
        n = int(rows.sum()) if len(numbers[rows].unique()) > 1 else 0
        close((sample[rows] ** 2).sum(), torch.tensor(float(max(n - 1, 0))).double())
        close((population[rows] ** 2).sum(), torch.tensor(float(n)).double())


@given(x=spread_out())
def test_leave_one_out_is_the_centred_score_times_n_over_n_minus_one(x):
    numbers, ids = x
    sizes = (ids[:, None] == ids).sum(-1)
    centred = group_relative(numbers, ids, normalize_std=False)
    close(leave_one_out(numbers, ids), centred * sizes / (sizes - 1).clamp(min=1))


def test_four_binary_scores_by_hand():
    # r̄ = 1/4. Sample variance (9 + 1 + 1 + 1)/16 / 3 = 1/4, s = 1/2: A = (3/4, −1/4, ...)/s = (1.5, −0.5, ...).
    # Leave one out: 1 − 0 and 0 − 1/3. Population std √3/4: A = √3 and −1/√3.
    numbers, ids = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    third = 1 / 3
    torch.testing.assert_close(group_relative(numbers, ids), torch.tensor([1.5, -0.5, -0.5, -0.5]))
    centred = group_relative(numbers, ids, normalize_std=False)
    torch.testing.assert_close(centred, torch.tensor([0.75, -0.25, -0.25, -0.25]))
    torch.testing.assert_close(leave_one_out(numbers, ids), torch.tensor([1.0, -third, -third, -third]))
    population = group_relative(numbers, ids, unbiased=False)
    torch.testing.assert_close(population, torch.tensor([3**0.5, -(third**0.5), -(third**0.5), -(third**0.5)]))


@pytest.mark.parametrize("correct", range(1, 8))
def test_binary_scores_follow_the_closed_form(correct):
    # Success rate p, population std √(p(1−p)): √((1−p)/p) where correct, −√(p/(1−p)) where wrong.
    p = correct / 8
    numbers = torch.tensor([1.0] * correct + [0.0] * (8 - correct), dtype=torch.float64)
    expected = numbers * math.sqrt((1 - p) / p) - (1 - numbers) * math.sqrt(p / (1 - p))
    close(group_relative(numbers, torch.zeros(8, dtype=torch.long), unbiased=False), expected)


@each_function
def test_large_offsets_keep_float32_digits(function):
    # Spacing of float32 near 1e4 is 1e-3: a mean rounded there, or squares before centring, would show in A.
    numbers, ids = torch.tensor([10000.0, 10000.5, 10003.0]), torch.zeros(3, dtype=torch.long)
    exact = function(numbers.double() - 10000, ids)
    torch.testing.assert_close(function(numbers, ids).double(), exact, rtol=1e-6, atol=1e-7)


@each_function
def test_results_come_in_the_dtype_of_the_scores_and_are_computed_in_float32(function):
    numbers, ids = torch.tensor([256.0, 1.0, 1.0, 3.0, 2.0]), torch.zeros(5, dtype=torch.long)
    wanted = {torch.bfloat16: torch.bfloat16, torch.float32: torch.float32, torch.float64: torch.float64}
    for dtype, expected in (wanted | {torch.long: torch.float32}).items():
        advantages = function(numbers.to(dtype), ids)
        assert advantages.dtype == expected
        assert torch.equal(advantages, function(numbers.double(), ids).to(expected)) or dtype != torch.bfloat16
        torch.testing.assert_close(advantages, function(numbers.double(), ids).to(expected))


@each_function
def test_inputs_are_not_changed_and_no_graph_comes_out(function):
    numbers = torch.tensor([1.0, 2.0, NAN], requires_grad=True)
    ids = torch.tensor([4, 4, 4])
    assert not function(numbers, ids).requires_grad
    assert numbers.detach().nan_to_num().tolist() == [1.0, 2.0, 0.0]
    assert ids.tolist() == [4, 4, 4]


@each_function
def test_wrong_shapes_and_float_ids_are_refused(function, unchecked_shapes):
    with pytest.raises(UsageError, match=r"scores has shape \(2, 3\), group_ids \(2,\); pass one entry per response"):
        function(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UsageError, match=r"scores has shape \(1,\), group_ids \(2,\)"):
        function(torch.zeros(1), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UsageError, match=r"group_ids must hold integers, got torch.float32; pass group_ids.long\(\)"):
        function(torch.zeros(2), torch.zeros(2))


def expected_update(function, rewards, probabilities, n):
    """E[1/n Σᵢ Aᵢ ∇ log π(yᵢ)] of a softmax bandit, over all n-tuples of arms."""
    arms = range(len(rewards))
    total = torch.zeros(len(rewards), dtype=torch.float64)
    for drawn in itertools.product(arms, repeat=n):
        index = torch.tensor(drawn)
        advantages = function(rewards[index], torch.zeros(n, dtype=torch.long))
        scores_of = torch.eye(len(rewards), dtype=torch.float64)[index] - probabilities
        total += probabilities[index].prod() * (advantages[:, None] * scores_of).mean(0)
    return total


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_is_unbiased_and_the_mean_baseline_shrinks_by_n_minus_one_over_n(n):
    rewards = torch.tensor([1.0, -0.5, 0.25, 3.0], dtype=torch.float64)
    probabilities = torch.tensor([0.3, -0.2, 0.9, -1.0], dtype=torch.float64).softmax(0)
    gradient = probabilities * (rewards - probabilities @ rewards)  # ∇E[r] of a softmax bandit
    close(expected_update(leave_one_out, rewards, probabilities, n), gradient)
    centred = expected_update(FUNCTIONS["no std"], rewards, probabilities, n)
    close(centred, (n - 1) / n * gradient)
    normalized = expected_update(group_relative, rewards, probabilities, n)
    assert torch.nn.functional.cosine_similarity(normalized, gradient, dim=0) < 0.999  # dividing by s bends it


@fewer
@given(batch=rollouts(shaped=False))
def test_components_spread_the_functions_over_scored_tokens(batch):
    mask, ids = batch.scored_mask, batch.group_ids
    for component, per_response in (
        (GroupRelative(), group_relative(batch.outcomes, ids)),
        (GroupRelative(normalize_std=False), group_relative(batch.outcomes, ids, normalize_std=False)),
        (GroupRelative(unbiased=False), group_relative(batch.outcomes, ids, unbiased=False)),
        (LeaveOneOut(), leave_one_out(batch.outcomes, ids)),
    ):
        advantages, returns = component(batch)
        assert returns is None
        assert torch.equal(advantages, torch.where(mask, per_response[:, None], torch.zeros_like(batch.rewards)))


@fewer
@given(batch=rollouts(unscorable=False, shaped=False))
def test_components_compare_shaped_outcomes(batch):
    assume(bool(batch.response_mask.any(-1).all()))
    shaping = 0.25 * batch.response_mask  # longer responses earn more
    shaped = batch.replace(rewards=batch.rewards + shaping)
    expected = group_relative(batch.scores + shaping.sum(-1), batch.group_ids, normalize_std=False)
    advantages = GroupRelative(normalize_std=False)(shaped).advantages
    close(advantages, expected[:, None] * batch.response_mask, rtol=1e-6, atol=1e-6)


def test_the_declared_scale_of_the_update_is_that_of_a_mean_with_the_response_in_it():
    assert GroupRelative(normalize_std=False).update_scale(4) == 0.75
    assert GroupRelative().update_scale(4) is None
