"""Other baselines for a group of responses: pass mark, length-weighted, mean as scale, quantile, best of k."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rl4llm.advantages import (
    CorrectnessRelative,
    PassAtKTraining,
    QuantileRelative,
    correctness_relative,
    group_relative,
    max_rl,
    optimal_baseline,
    pass_at_k,
    quantile_relative,
)
from rl4llm.checks import UsageError
from rl4llm.testing.strategies import group_ids

NAN = float("nan")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def one_group(scores):
    return torch.zeros(len(scores), dtype=torch.long)


@st.composite
def groups(draw, binary=False):
    """Scores (some NaN), ids and lengths of ragged groups in any order."""
    batch = draw(st.integers(1, 8))
    number = st.sampled_from([0.0, 1.0]) if binary else st.floats(0, 100, width=32)
    scores = draw(st.lists(st.one_of(number, number, number, st.just(NAN)), min_size=batch, max_size=batch))
    lengths = draw(st.lists(st.integers(0, 9), min_size=batch, max_size=batch))
    return doubles(*scores), draw(group_ids(batch)), torch.tensor(lengths)


FUNCTIONS = {
    "correctness_relative": lambda s, g, n: correctness_relative(s, g, min_correct=0.5),
    "optimal_baseline": optimal_baseline,
    "max_rl": lambda s, g, n: max_rl(s, g),
    "quantile_relative": lambda s, g, n: quantile_relative(s, g),
    "pass_at_k": lambda s, g, n: pass_at_k(s, g, k=2),
}
each = pytest.mark.parametrize("name", FUNCTIONS)


@each
@given(data=st.data())
def test_rows_are_permuted_groups_renumbered_and_unscored_rows_dropped(name, data):
    function = FUNCTIONS[name]
    scores, ids, lengths = data.draw(groups(binary=name == "pass_at_k"))
    result = function(scores, ids, lengths)
    order = torch.tensor(data.draw(st.permutations(range(len(scores)))))
    torch.testing.assert_close(function(scores[order], ids[order], lengths[order]), result[order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(function(scores, 7 - 3 * ids, lengths), result, rtol=1e-9, atol=1e-9)
    scored = ~scores.isnan()
    assert not result[~scored].any()
    if scored.any():
        alone = function(scores[scored], ids[scored], lengths[scored])
        torch.testing.assert_close(alone, result[scored], rtol=1e-9, atol=1e-9)
    assert result.isfinite().all()
    assert not result.requires_grad


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_results_come_in_the_dtype_of_the_scores(name, dtype):
    scores, ids = torch.tensor([1, 0, 1, 0]).to(dtype), torch.tensor([0, 0, 0, 1])
    result = FUNCTIONS[name](scores, ids, torch.ones(4, dtype=torch.long))
    assert result.dtype == (torch.float32 if dtype == torch.int64 else dtype)


@each
def test_shapes_are_checked(unchecked_shapes, name):
    with pytest.raises(UsageError, match=rf"{name}: scores has shape \(3,\), group_ids \(2,\)"):
        FUNCTIONS[name](torch.zeros(3), torch.zeros(2, dtype=torch.long), torch.zeros(2))


@pytest.mark.parametrize(
    ("scores", "min_correct", "expected"),
    [
        ([-1.0, -0.8, -0.9, -0.7], 0.0, [-1.0, -0.8, -0.9, -0.7]),  # mean -0.85 < 0: the pass mark is the baseline
        ([-1.0, 1.0, 1.0, 1.0], 0.0, [-1.5, 0.5, 0.5, 0.5]),  # mean 0.5 ≥ 0: the mean is
        ([0.0, 0.0, 0.0, 1.0], 1.0, [-1.0, -1.0, -1.0, 0.0]),
        ([0.0, 0.0, 0.0, 1.0], 0.0, [-0.25, -0.25, -0.25, 0.75]),
        ([0.0, 0.0, 0.0, 1.0], 0.5, [-0.5, -0.5, -0.5, 0.5]),
        ([-2.0], 0.0, [-2.0]),
        ([2.0], 0.0, [0.0]),
    ],
)
def test_the_pass_mark_is_the_baseline_until_the_mean_reaches_it(scores, min_correct, expected):
    got = correctness_relative(doubles(*scores), one_group(scores), min_correct=min_correct)
    torch.testing.assert_close(got, doubles(*expected))


@given(groups(), st.floats(-10, 110), st.floats(0.1, 3.0), st.floats(-5, 5))
def test_no_failed_response_is_reinforced(drawn, mark, scale, shift):
    scores, ids, _ = drawn
    advantages = correctness_relative(scores, ids, min_correct=mark)
    assert (advantages[scores < mark] < 0).all()
    mean_baseline = group_relative(scores, ids, normalize_std=False)
    assert (advantages <= mean_baseline + 1e-9).all()
    torch.testing.assert_close(
        correctness_relative(scale * scores + shift, ids, min_correct=scale * mark + shift), scale * advantages,
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    torch.testing.assert_close(correctness_relative(scores, ids, min_correct=-1e6), mean_baseline)


@given(groups())
def test_the_length_weighted_advantages_of_a_group_sum_to_zero(drawn):
    scores, ids, lengths = drawn
    advantages = optimal_baseline(scores, ids, lengths)
    for group in ids.unique():
        assert (lengths * advantages)[ids == group].sum().abs() < 1e-8
    equal = optimal_baseline(scores, ids, torch.full_like(lengths, 3))
    torch.testing.assert_close(equal, group_relative(scores, ids, normalize_std=False), rtol=1e-9, atol=1e-9)


def test_an_empty_response_weighs_nothing():
    advantages = optimal_baseline(doubles(1.0, 0.0, 50.0), torch.tensor([0, 0, 0]), torch.tensor([3, 1, 0]))
    torch.testing.assert_close(advantages, doubles(0.25, -0.75, 49.25))
    assert not optimal_baseline(doubles(1.0, 0.0), torch.tensor([0, 0]), torch.tensor([0, 0])).any()


@given(groups(), st.floats(0.01, 100))
def test_max_rl_knows_no_scale_and_sums_to_zero(drawn, scale):
    scores, ids, _ = drawn
    advantages = max_rl(scores, ids)
    torch.testing.assert_close(max_rl(scale * scores, ids), advantages, rtol=1e-9, atol=1e-9)
    for group in ids.unique():
        assert advantages[ids == group].sum().abs() < 1e-8


@pytest.mark.parametrize("successes", range(9))
def test_max_rl_of_binary_scores(successes):
    scores = doubles(*([1.0] * successes + [0.0] * (8 - successes)))
    advantages, p = max_rl(scores, one_group(scores)), successes / 8
    expected = [(1 - p) / p if score else (-1.0 if p else 0.0) for score in scores.tolist()]
    torch.testing.assert_close(advantages, doubles(*expected))


def test_max_rl_refuses_negative_scores():
    with pytest.raises(UsageError, match="max_rl: scores must not be negative"):
        max_rl(doubles(-1.0, -2.0), one_group([0, 0]))


@pytest.mark.parametrize("n", range(2, 17))
@pytest.mark.parametrize("k", [0.25, 0.4, 0.5, 0.75])
def test_the_quantile_of_binary_scores_gives_signal_to_one_side_only(n, k):
    for successes in range(1, n):
        scores = doubles(*([1.0] * successes + [0.0] * (n - successes)))
        advantages = quantile_relative(scores, one_group(scores), k=k)
        hard = (n - successes) * 1.0 >= k * n - 1e-9  # enough failures for the quantile to be 0
        assert not advantages[scores == (0.0 if hard else 1.0)].any()
        assert (advantages[scores == (1.0 if hard else 0.0)] * (1 if hard else -1) > 0).all()


@pytest.mark.parametrize(("k", "n"), [(0.29, 100), (0.6, 25), (0.3, 50), (0.54, 50), (0.5, 3), (0.99, 2)])
def test_the_quantile_of_distinct_scores_is_an_order_statistic(k, n):
    place = math.ceil(round(k * n, 6))  # from 1; k·n in binary may lie a rounding error above a whole number
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(0)).double()
    advantages = quantile_relative(scores, one_group(scores), k=k)
    assert advantages[scores == place - 1] == 0


def test_the_quantiles_of_many_groups_take_no_memory_for_pairs_of_responses():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple) else (result,):
                self.elements = max(self.elements, getattr(tensor, "nbytes", 0) // 8)
            return result

    scores, rows = torch.arange(400.0) % 7, torch.arange(400)
    with Largest() as largest:
        quantile_relative(scores, rows // 4)
    assert largest.elements <= 400


@given(groups(), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(-10, 10))
def test_a_higher_quantile_is_a_higher_baseline(drawn, first, second, shift):
    scores, ids, _ = drawn
    low, high = sorted((first, second))
    assert (quantile_relative(scores, ids, k=low) >= quantile_relative(scores, ids, k=high) - 1e-9).all()
    integers = scores.round()
    moved = quantile_relative(integers + round(shift), ids, k=low)
    torch.testing.assert_close(moved, quantile_relative(integers, ids, k=low), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_average_over_all_subsets(n):
    for successes in range(n + 1):
        outcome = [1.0] * successes + [0.0] * (n - successes)
        for k in range(1, n + 1):
            best = [max(outcome[i] for i in subset) for subset in combinations(range(n), k)]
            mean = sum(best) / len(best)
            std = math.sqrt(mean * (1 - mean))
            expected = []
            for i in range(n):
                own = [max(outcome[j] for j in subset) for subset in combinations(range(n), k) if i in subset]
                expected.append((sum(own) / len(own) - mean) / std if std > 1e-12 else 0.0)
            got = pass_at_k(doubles(*outcome), one_group(outcome), k=k)
            torch.testing.assert_close(got, doubles(*expected), rtol=1e-9, atol=1e-9)


@given(groups(binary=True))
def test_pass_at_one_is_grpo_with_the_population_deviation(drawn):
    scores, ids, _ = drawn
    torch.testing.assert_close(pass_at_k(scores, ids, k=1), group_relative(scores, ids, unbiased=False))


def test_pass_at_k_needs_binary_scores_and_k_responses():
    with pytest.raises(UsageError, match="pass_at_k: scores must be 0 or 1"):
        pass_at_k(doubles(0.5, 1.0), one_group([0, 0]), k=1)
    assert not pass_at_k(doubles(1.0, 0.0), one_group([0, 0]), k=3).any()
    with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
        PassAtKTraining(k=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CorrectnessRelative(min_correct=NAN), "CorrectnessRelative: min_correct must be in"),
        (lambda: CorrectnessRelative(min_correct=math.inf), "CorrectnessRelative: min_correct must be in"),
        (lambda: QuantileRelative(quantile=1.0), r"QuantileRelative: quantile must be in \(0, 1\), got 1.0"),
    ],
)
def test_options_outside_their_domain_are_one_line(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_a_group_that_wrote_a_single_token_has_a_baseline_and_one_that_wrote_none_has_not():
    scores, ids = doubles(1.0, 0.0), torch.tensor([0, 0])
    assert optimal_baseline(scores, ids, torch.tensor([0, 1])).tolist() == [1.0, 0.0]
    assert optimal_baseline(scores, ids, torch.tensor([0, 0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("k", "baseline"), [(0.6, 0.0), (0.61, 1.0), (0.2, 0.0)])
def test_a_share_that_is_met_exactly_is_met(k, baseline):
    scores = doubles(0.0, 0.0, 0.0, 1.0, 1.0)
    advantages = quantile_relative(scores, torch.zeros(5, dtype=torch.long), k=k)
    assert advantages[baseline == scores].eq(0).all()
    assert advantages[baseline != scores].ne(0).all()
