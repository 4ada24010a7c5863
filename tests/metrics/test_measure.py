"""Means over prompts, their bootstrap intervals, and the vote of several responses."""

from itertools import permutations, product
from math import isnan
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.metrics import Measure, bootstrap_means, majority_rate, percentile_interval

# --- intervals ------------------------------------------------------------------------------------------------------


def test_a_mean_is_over_all_counted_responses():
    assert Measure(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4.0, 0.0, 1.0])).mean == 0.8
    assert isnan(Measure(torch.zeros(2), torch.zeros(2)).mean)


def test_bootstrap_means_of_few_prompts_are_those_of_all_ways_to_draw_them():
    """Three prompts can be drawn in 27 ways, equally likely."""
    totals, counts = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 4.0])
    drawn = bootstrap_means([Measure(totals, counts)], resamples=20_000)[:, 0]
    exact = [sum(totals[i] for i in way) / sum(counts[i] for i in way) for way in product(range(3), repeat=3)]
    for value in {round(float(x), 6) for x in exact}:
        share = mean(abs(float(x) - value) < 1e-6 for x in exact)
        assert (drawn - value).abs().lt(1e-6).double().mean().item() == pytest.approx(share, abs=0.015)


def test_measures_share_their_bootstrap_samples():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    one = Measure(values, torch.ones(20))
    other = Measure(values + 0.25, torch.ones(20))
    drawn = bootstrap_means([one, other], resamples=50)
    torch.testing.assert_close(drawn[:, 1] - drawn[:, 0], torch.full((50,), 0.25, dtype=torch.float64))


def test_bootstrap_samples_depend_on_the_seed_alone():
    measure = Measure(torch.arange(9.0), torch.ones(9))
    first, again, other = (bootstrap_means([measure], resamples=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_many_resamples_are_drawn_in_pieces(monkeypatch):
    measure = Measure(torch.arange(9.0), torch.ones(9))
    monkeypatch.setattr("rl4llm.metrics.measure._CELLS", 9 * 16)
    pieces = bootstrap_means([measure], resamples=4_001)[:, 0]
    assert len(pieces) == 4_001
    assert pieces.mean().item() == pytest.approx(4.0, abs=0.05)
    assert pieces.std().item() == pytest.approx((60 / 9 / 9) ** 0.5, rel=0.05)  # variance 60/9 over nine prompts


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    """Accuracies of 100 prompts with 4 responses each, of which prompts differ in difficulty: the truth is 1/2."""
    random, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        chance = torch.rand(100, 1, generator=random)
        correct = (torch.rand(100, 4, generator=random) < chance).double().sum(-1)
        means = bootstrap_means([Measure(correct, torch.full((100,), 4.0))], resamples=500)[:, 0]
        low, high = percentile_interval(means)
        held += bool(low <= 0.5 <= high)
    assert 0.92 <= held / 400 <= 0.98


def test_an_interval_cuts_the_same_share_off_on_both_sides():
    assert percentile_interval(torch.arange(1001.0, dtype=torch.float64)).tolist() == pytest.approx([25.0, 975.0])


def test_equal_prompts_have_an_interval_of_no_width():
    assert percentile_interval(bootstrap_means([Measure(torch.ones(5), torch.ones(5))])[:, 0]).tolist() == [1.0, 1.0]


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UsageError, match="percentile_interval: confidence must be in"):
        percentile_interval(torch.zeros(3, dtype=torch.float64), confidence=1.0)
    with pytest.raises(UsageError, match="bootstrap_means: resamples must be a whole number of at least 1"):
        bootstrap_means([Measure(torch.ones(5), torch.ones(5))], resamples=0)


# --- majority -------------------------------------------------------------------------------------------------------

ANSWERS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=5)


def vote(block):
    """The mean over all orders of the block: the first of the most frequent answers in the order is taken."""
    results = []
    for order in permutations(block):
        given_answers = [answer for answer, _ in order if answer is not None]
        if not given_answers:
            return 0.0
        chosen = max(given_answers, key=lambda answer: given_answers.count(answer))
        results.append(mean(good for answer, good in order if answer == chosen))
    return mean(results)


@given(ANSWERS)
def test_a_vote_is_the_mean_over_random_choices_among_the_most_frequent(block):
    answers, correct = zip(*block, strict=True)
    assert majority_rate(answers, correct, k=len(block)) == pytest.approx(vote(block))


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_one_voter_is_the_mean_accuracy(correct):
    answers = [str(good) for good in correct]
    assert majority_rate(answers, correct, k=1) == pytest.approx(mean(correct))


def test_blocks_vote_one_by_one_and_a_remainder_does_not():
    answers, correct = ["6", "6", "7", "7", "7", "8"], [True, True, False, False, False, False]
    assert majority_rate(answers, correct, k=3) == 0.5
    assert majority_rate(answers, correct, k=2) == pytest.approx(1 / 3)
    assert majority_rate([*answers, "6"], [*correct, True], k=3) == 0.5


def test_a_response_without_an_answer_does_not_vote():
    assert majority_rate([None, None, "6"], [False, True, True], k=3) == 1.0
    assert majority_rate([None, None], [True, True], k=2) == 0.0


@pytest.mark.parametrize(("count", "k"), [(2, 3), (2, 0)])
def test_fewer_responses_than_voters_are_refused(count, k):
    with pytest.raises(UsageError, match="majority_rate"):
        majority_rate(["6"] * count, [True] * count, k=k)
