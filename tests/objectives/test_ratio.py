import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.objectives import MAX_LOG_RATIO, tangent_exp, token_log_ratio, token_ratio
from rl4llm.testing.strategies import rollouts


@given(rollouts())
def test_the_log_ratio_is_the_difference_at_trained_tokens(batch):
    log_ratio = token_log_ratio(batch.rollout_log_probs, batch.old_log_probs, batch.response_mask)
    assert torch.equal(
        log_ratio[batch.response_mask], (batch.rollout_log_probs - batch.old_log_probs)[batch.response_mask]
    )
    assert (log_ratio[~batch.response_mask] == 0).all()
    ratios = token_ratio(batch.rollout_log_probs, batch.old_log_probs, batch.response_mask)
    assert torch.equal(ratios, tangent_exp(log_ratio))


def test_a_ratio_is_formed_in_float32_and_the_log_ratio_given_back_in_the_inputs_dtype():
    new, old = torch.tensor([[-5.0]], dtype=torch.bfloat16), torch.tensor([[-5.001]])
    mask = torch.tensor([[True]])
    assert token_log_ratio(new, old, mask).dtype == torch.bfloat16
    torch.testing.assert_close(token_ratio(new, old, mask), torch.tensor([[math.exp(0.001)]]), rtol=1e-5, atol=0)


@given(st.floats(-120.0, 300.0))
def test_the_slope_of_the_exponential_neither_vanishes_nor_overflows(log_ratio):
    x = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    value = tangent_exp(x)
    value.backward()
    torch.testing.assert_close(x.grad, x.detach().clamp(max=MAX_LOG_RATIO).exp(), rtol=1e-14, atol=0)
    assert value.isfinite().all()
    if log_ratio <= MAX_LOG_RATIO:
        assert torch.equal(value, x.exp())
    assert torch.autograd.gradcheck(tangent_exp, x) or abs(log_ratio - MAX_LOG_RATIO) < 1e-5


def test_the_exponential_is_finite_in_float32_and_zero_at_minus_infinity():
    x = torch.tensor([1e4, -torch.inf, MAX_LOG_RATIO], requires_grad=True)
    value = tangent_exp(x)
    value.sum().backward()
    top = math.exp(MAX_LOG_RATIO)
    torch.testing.assert_close(value, torch.tensor([top * (1e4 - MAX_LOG_RATIO + 1), 0.0, top]))
    torch.testing.assert_close(x.grad, torch.tensor([top, 0.0, top]))


@given(st.floats(-30.0, 30.0))
def test_minus_one_is_exact_for_small_and_large_numbers(log_ratio):
    x = torch.tensor([log_ratio], dtype=torch.float64)
    torch.testing.assert_close(tangent_exp(x, minus_one=True), tangent_exp(x) - 1)
    small = x * 1e-9
    torch.testing.assert_close(tangent_exp(small, minus_one=True), small + small**2 / 2, rtol=1e-14, atol=0)


def test_shapes_must_agree(unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"token_log_ratio: old_log_probs has shape \(2,\), response_mask \(2, 3\)"):
        token_log_ratio(torch.zeros(2, 3), torch.zeros(2), mask)
    with pytest.raises(UsageError, match="response_mask must be a bool tensor"):
        token_log_ratio(torch.zeros(2, 3), torch.zeros(2, 3), mask.float())
