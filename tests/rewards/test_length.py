"""The charge for length: by cases, at the last trained token, and part of what group estimators compare."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.regularizers import KLReward
from rl4llm.rewards import OverlongPenalty, RewardShaping, overlong_penalty
from rl4llm.testing.reference.offpolicy import loop_overlong_penalty
from rl4llm.testing.strategies import rollouts


def test_ten_tokens_into_a_cache_of_twenty_cost_half():
    charges = overlong_penalty(torch.tensor([0, 80, 85, 90, 100, 101]), max_tokens=100, cache_tokens=20)
    assert charges.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


@given(st.lists(st.integers(0, 60), min_size=1), st.integers(1, 50), st.data())
def test_it_equals_the_cases(lengths, max_tokens, data):
    cache = data.draw(st.integers(1, max_tokens))
    lengths = torch.tensor(lengths)
    expected = torch.tensor(loop_overlong_penalty(lengths, max_tokens=max_tokens, cache_tokens=cache))
    got = overlong_penalty(lengths, max_tokens=max_tokens, cache_tokens=cache)
    torch.testing.assert_close(got, expected)
    order = lengths.argsort()
    assert (got[order].diff() <= 0).all()
    assert ((got >= -1) & (got <= 0)).all()


@given(rollouts(), st.sampled_from([0.0, 0.5, 2.0]))
def test_the_charge_stands_at_the_last_trained_token(batch, coef):
    rewards = OverlongPenalty(max_tokens=5, cache_tokens=4, coef=coef)(batch)
    charges = coef * overlong_penalty(batch.lengths, max_tokens=5, cache_tokens=4).double()
    for row in range(len(batch)):
        trained = batch.response_mask[row].nonzero()[:, 0].tolist()
        for t in range(batch.response_mask.shape[1]):
            expected = batch.rewards[row, t] if t in trained else torch.tensor(0.0)
            if trained and t == trained[-1] and not batch.scores[row].isnan():
                expected = expected + charges[row]
            assert float(rewards[row, t]) == pytest.approx(float(expected))


@given(rollouts(shaped=False))
def test_group_estimators_compare_scores_with_the_charge(batch):
    charged = batch.replace(rewards=OverlongPenalty(max_tokens=5, cache_tokens=4)(batch)).outcomes
    charges = overlong_penalty(batch.lengths, max_tokens=5, cache_tokens=4).double()
    known = ~batch.scores.isnan() & (batch.lengths > 0)
    torch.testing.assert_close(charged[known], (batch.scores + charges)[known], rtol=1e-9, atol=1e-9)


@given(rollouts())
def test_shapings_add_up_in_any_order(batch):
    length, divergence = OverlongPenalty(max_tokens=5, cache_tokens=4), KLReward(0.5)
    both = divergence(batch.replace(rewards=length(batch)))
    torch.testing.assert_close(both, length(batch.replace(rewards=divergence(batch))), rtol=1e-9, atol=1e-9)
    assert isinstance(length, RewardShaping)
    assert isinstance(divergence, RewardShaping)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OverlongPenalty(0, 1), "OverlongPenalty: max_tokens must be a whole number of at least 1, got 0"),
        (lambda: OverlongPenalty(5, 0), "OverlongPenalty: cache_tokens must be a whole number of at least 1, got 0"),
        (lambda: OverlongPenalty(5, 6), r"OverlongPenalty: cache_tokens must be in \[1, 5\], got 6"),
        (lambda: OverlongPenalty(5, 4, coef=-1.0), r"OverlongPenalty: coef must be in \[0, inf\), got -1.0"),
    ],
)
def test_values_are_checked_at_construction(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_lengths_have_one_axis(unchecked_shapes):
    with pytest.raises(UsageError, match=r"overlong_penalty: lengths has shape \(2, 1\); expected 1 axes"):
        overlong_penalty(torch.ones(2, 1), max_tokens=5, cache_tokens=4)
