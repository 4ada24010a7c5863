"""The gate of undecided states: what one value says about the outcome, as a control for disagreement."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.gates import UndecidedStates, drop_smallest, undecided_states
from rl4llm.testing.strategies import rollouts

FEWER = settings(max_examples=settings.default.max_examples // 4)  # whole batches are slow to draw


@FEWER
@given(batch=rollouts(), fraction=st.sampled_from([0.0, 0.2, 0.5]), low=st.sampled_from([-1.0, 0.0]))
def test_it_drops_the_states_of_least_variance(batch, fraction, low):
    mask, values = batch.response_mask, batch.values
    kept = undecided_states(values, mask, fraction=fraction, low=low, high=1.0)
    assert torch.equal(kept, drop_smallest((1.0 - values) * (values - low), mask, fraction))
    assert torch.equal(kept, UndecidedStates(fraction=fraction, low=low)(batch))


@FEWER
@given(batch=rollouts(), fraction=st.sampled_from([0.2, 0.5]))
def test_success_and_failure_are_alike_decided(batch, fraction):
    values = (batch.values * 8).round() / 8  # so that 1 − V is exact
    kept = undecided_states(values, batch.response_mask, fraction=fraction)
    assert torch.equal(kept, undecided_states(1.0 - values, batch.response_mask, fraction=fraction))


def test_total_variance_is_what_each_critic_says_and_their_disagreement():
    critics = torch.rand(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = critics.mean(0)
    inside = (critics * (1 - critics)).mean(0)
    torch.testing.assert_close(mean * (1 - mean), inside + critics.var(0, unbiased=False))


def test_bounds_are_checked():
    with pytest.raises(UsageError, match="UndecidedStates: low must be below high"):
        UndecidedStates(low=1.0, high=0.0)


def test_scores_from_minus_one_have_their_middle_at_zero():
    values, mask = torch.tensor([[0.0, -0.9, 0.5, 0.8]]), torch.ones(1, 4, dtype=torch.bool)
    kept = [[True, False, True, False]]  # u = 1, 0.19, 0.75, 0.36
    assert undecided_states(values, mask, fraction=0.5, low=-1.0).tolist() == kept
    # with scores from 0: u = 0, −1.71, 0.25, 0.16
    assert undecided_states(values, mask, fraction=0.25).tolist() == [[True, False, True, True]]


@FEWER
@given(batch=rollouts())
def test_the_component_hands_on_bounds_and_ties(batch):
    gate = UndecidedStates(fraction=0.5, low=-3.0, high=5.0)
    values, mask = batch.values, batch.response_mask
    assert torch.equal(gate(batch), drop_smallest((5.0 - values) * (values + 3.0), mask, 0.5))
    equal = batch.replace(values=torch.zeros_like(values))
    trained = int(mask.sum())
    assert int(UndecidedStates(0.5)(equal).sum()) == trained
    assert int(UndecidedStates(0.5, exact=True)(equal).sum()) == trained - trained // 2
