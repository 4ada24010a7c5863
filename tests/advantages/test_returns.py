import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import MonteCarlo, discounted_returns
from rl4llm.checks import UsageError
from rl4llm.testing.reference import estimators as reference
from rl4llm.testing.strategies import masks, rollouts, tensors

# A whole batch is slow to draw.
fewer = settings(max_examples=settings().max_examples // 4)


@given(data=st.data(), mask=masks(), gamma=st.sampled_from([0.0, 0.5, 0.97, 1.0]))
def test_equals_the_sum_of_discounted_rewards_over_trained_tokens(data, mask, gamma):
    rewards = data.draw(tensors(tuple(mask.shape)))
    expected = reference.discounted_returns(rewards, mask, gamma)
    torch.testing.assert_close(discounted_returns(rewards, mask, gamma=gamma), expected, rtol=0, atol=1e-9)


def test_three_rewards_by_hand():
    # γ = 1/2, r = (1, 2, 4): G₂ = 4, G₁ = 2 + 2 = 4, G₀ = 1 + 2 = 3.
    returns = discounted_returns(torch.tensor([[1, 2, 4]]), torch.ones(1, 3, dtype=torch.bool), gamma=0.5)
    assert returns.tolist() == [[3.0, 4.0, 4.0]]


def test_an_outcome_crosses_a_tool_span_undiscounted():
    mask = torch.tensor([[True, False, False, True]])
    returns = discounted_returns(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), mask, gamma=0.5)
    assert returns.tolist() == [[0.5, 0.0, 0.0, 1.0]]


@fewer
@given(batch=rollouts(unscorable=False, shaped=False))
def test_an_undiscounted_outcome_is_every_tokens_return(batch):
    returns = discounted_returns(batch.rewards, batch.response_mask)
    torch.testing.assert_close(returns, batch.scores[:, None] * batch.response_mask, rtol=1e-12, atol=1e-9)


@fewer
@given(batch=rollouts())
def test_the_component_subtracts_values_where_there_are_any(batch):
    mask = batch.scored_mask
    returns = discounted_returns(batch.rewards, mask, gamma=0.9)
    with_values, without = MonteCarlo(gamma=0.9)(batch), MonteCarlo(gamma=0.9)(batch.replace(values=None))
    assert torch.equal(with_values.returns, returns)
    assert torch.equal(without.returns, returns)
    assert torch.equal(without.advantages, returns)
    expected = torch.where(mask, returns - batch.values, torch.zeros_like(returns))
    torch.testing.assert_close(with_values.advantages, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("gamma", [-0.1, 1.5])
def test_a_discount_outside_zero_and_one_is_refused(gamma):
    with pytest.raises(UsageError, match=r"discounted_returns: gamma must be in \[0, 1\]"):
        discounted_returns(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), gamma=gamma)
    with pytest.raises(UsageError, match=r"MonteCarlo: gamma must be in \[0, 1\]"):
        MonteCarlo(gamma=gamma)
