"""A*-PO: the regression whose optimum is that of KL-regularized RL, enumerated on a small token tree."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import (
    OptimalAdvantageRegression,
    at_first_token,
    optimal_advantage_regression,
    reinforce,
    response_log_ratio,
)
from rl4llm.testing.reference.regression import TokenTree, loop_optimal_advantage_regression
from rl4llm.testing.strategies import masks, rollouts, scores, tensors
from tests.log_probs import moved, random_log_probs

TREE = TokenTree()
STATES, MASK = len(TREE.prefixes), TREE.tokens()[2]
BETAS = st.sampled_from([0.05, 0.5, 2.0])


@st.composite
def responses(draw):
    """Log-probs, those of a reference nearby, scores, values and mask."""
    mask = draw(masks())
    log_probs = draw(tensors(tuple(mask.shape), -6.0, -0.01))
    ref = moved(log_probs, 0.3 * draw(tensors(tuple(mask.shape))))
    return [log_probs, ref, draw(scores(len(mask))), draw(tensors((len(mask),))), mask]


@st.composite
def trees(draw):
    """Logits of a policy and of a reference on the tree, and a score for each of its responses."""
    logits, reference = (draw(tensors((STATES, TREE.vocabulary), -1.5, 1.5)) for _ in range(2))
    return logits, reference, draw(tensors((len(TREE.responses),), -1.0, 1.0))


def gradient(function, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


def probabilities(logits):
    """π(y) of every response of the tree."""
    return torch.where(MASK, TREE.log_probs(logits), 0.0).sum(-1).exp()


def regularized_return(logits, reference, r, beta):
    """E[r] − β KL(π‖π_ref), exactly."""
    ratio = response_log_ratio(TREE.log_probs(logits), TREE.log_probs(reference), MASK)
    return (probabilities(logits) * (r - beta * ratio)).sum()


@given(responses(), BETAS)
def test_losses_equal_the_reference_loop(drawn, beta):
    got = optimal_advantage_regression(*drawn, beta=beta)
    torch.testing.assert_close(got, loop_optimal_advantage_regression(*drawn, beta=beta), rtol=1e-10, atol=1e-12)


@given(responses(), BETAS)
def test_the_gradient_is_the_closed_form(drawn, beta):
    log_probs, ref, r, values, mask = drawn
    log_probs = log_probs.clone().requires_grad_()
    optimal_advantage_regression(log_probs, ref, r, values, mask, beta=beta).sum().backward()
    ratio = torch.where(mask, log_probs.detach() - ref, 0.0).sum(-1)
    slope = 2 * beta * (beta * ratio - (r - values)).nan_to_num()
    torch.testing.assert_close(log_probs.grad, torch.where(mask, slope[:, None], 0.0), rtol=1e-10, atol=1e-12)


@given(trees(), BETAS)
def test_the_loss_vanishes_at_the_optimum_for_every_response(drawn, beta):
    _, reference, r = drawn
    q = TREE.soft_optimal_q(reference, r, beta=beta)
    value = beta * (probabilities(reference) * (r / beta).exp()).sum().log()
    torch.testing.assert_close(beta * q[0].logsumexp(0), value)  # V* of the prompt
    torch.testing.assert_close(probabilities(q), probabilities(reference) * ((r - value) / beta).exp())
    loss = optimal_advantage_regression(
        TREE.log_probs(q), TREE.log_probs(reference), r, value.expand(len(r)), MASK, beta=beta
    )
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-20)


@given(trees(), BETAS, st.floats(-3.0, 3.0))
def test_on_policy_the_expected_gradient_is_that_of_regularized_rl_for_any_value(drawn, beta, value):
    logits, reference, r = drawn
    weights, values = probabilities(logits), torch.full((len(r),), value, dtype=torch.float64)

    def expected(x):
        losses = optimal_advantage_regression(TREE.log_probs(x), TREE.log_probs(reference), r, values, MASK, beta=beta)
        return (weights * losses).sum()

    exact = gradient(lambda x: regularized_return(x, reference, r, beta), logits)
    torch.testing.assert_close(gradient(expected, logits), -2 * beta * exact, rtol=1e-10, atol=1e-12)


@given(trees(), BETAS)
def test_at_the_reference_it_is_reinforce_with_the_value_as_baseline(drawn, beta):
    _, reference, r = drawn
    values = r.flip(0)
    ref = TREE.log_probs(reference)
    got = gradient(
        lambda x: optimal_advantage_regression(TREE.log_probs(x), ref, r, values, MASK, beta=beta).sum(), reference
    )
    advantages = (r - values)[:, None].expand(MASK.shape)
    plain = gradient(lambda x: reinforce(TREE.log_probs(x), advantages, MASK).sum(), reference)
    torch.testing.assert_close(got, 2 * beta * plain, rtol=1e-10, atol=1e-12)


@given(responses(), BETAS, st.floats(-5.0, 5.0))
def test_a_shift_of_scores_and_values_changes_nothing(drawn, beta, shift):
    log_probs, ref, r, values, mask = drawn
    got = optimal_advantage_regression(log_probs, ref, r + shift, values + shift, mask, beta=beta)
    torch.testing.assert_close(got, optimal_advantage_regression(*drawn, beta=beta), rtol=1e-7, atol=1e-7)


def test_prompts_that_are_always_or_never_solved_have_no_gradient_at_the_reference():
    # All fail: V* = 0, r = 0. All succeed: V* = 1, r = 1. Solved for the first time: V* = 0, r = 1 has advantage 1.
    log_probs = torch.full((3, 2), -1.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 2, dtype=torch.bool)
    r, values = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    optimal_advantage_regression(log_probs, log_probs.detach(), r, values, mask).sum().backward()
    assert log_probs.grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [-0.002, -0.002]]


@given(responses(), st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_masked_positions_and_unscorable_responses_are_inert(drawn, garbage):
    log_probs, ref, r, values, mask = drawn
    gradients = []
    for clean in (True, False):
        x, y = (z if clean else z.masked_fill(~mask, garbage) for z in (log_probs, ref))
        x, scores = (z.clone().requires_grad_() for z in (x, r))
        loss = optimal_advantage_regression(x, y, scores, values, mask)
        loss.sum().backward()
        assert scores.grad is None
        assert not loss[r.isnan() | ~mask.any(-1)].any()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert not gradients[0][~mask].any()
    assert not gradients[0][r.isnan()].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_formed_in_float32_and_given_back_in_the_inputs_dtype(dtype):
    log_probs, mask = torch.full((1, 1000), -1.0, dtype=dtype), torch.ones(1, 1000, dtype=torch.bool)
    ref = torch.full((1, 1000), -1.01)
    loss = optimal_advantage_regression(log_probs, ref, torch.ones(1), torch.zeros(1), mask, beta=0.2)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx((0.2 * 10 - 1) ** 2, rel=5e-3)


def test_autograd_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x, ref = random_log_probs(2, 3, 4, generator=generator)
    r, values = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.7
    assert torch.autograd.gradcheck(
        lambda x: optimal_advantage_regression(x, ref, r, values, mask, beta=0.7), x.requires_grad_()
    )


@given(rollouts())
def test_a_component_reads_the_value_at_the_first_trained_token_and_the_whole_outcome(batch):
    batch = batch.replace(rewards=batch.rewards + 0.25)  # shaping counts
    first = [row.nonzero()[0].item() if row.any() else 0 for row in batch.response_mask]
    values = batch.values[torch.arange(len(batch)), first]
    expected = optimal_advantage_regression(
        batch.old_log_probs, batch.ref_log_probs, batch.outcomes, values, batch.response_mask, beta=0.3
    )
    component = OptimalAdvantageRegression(beta=0.3)
    got = component(PolicyOutput(batch.old_log_probs), batch.replace(advantages=None))
    assert torch.equal(got, expected)
    assert component.reads == ("ref_log_probs", "values")
    assert component.level == "response"
    assert not component.whole_groups
    assert eval(repr(component)) == pickle.loads(pickle.dumps(component)) == component
    for name in component.reads:
        with pytest.raises(UsageError, match=f"OptimalAdvantageRegression needs {name}"):
            component(PolicyOutput(batch.old_log_probs), batch.replace(**{name: None}))


@given(rollouts())
def test_what_stands_at_the_first_trained_token(batch):
    x = batch.values.masked_fill(~batch.response_mask, math.nan)
    got = at_first_token(x, batch.response_mask)
    for row, mask in enumerate(batch.response_mask):
        assert got[row] == (x[row, mask][0] if mask.any() else 0.0)


def test_wrong_options_and_shapes_are_one_line(unchecked_shapes):
    x, mask, r = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2)
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"OptimalAdvantageRegression: beta must be in \(0, inf\)"):
            OptimalAdvantageRegression(beta=beta)
        with pytest.raises(UsageError, match=r"optimal_advantage_regression: beta must be in \(0, inf\)"):
            optimal_advantage_regression(x, x, r, r, mask, beta=beta)
    for name in ("scores", "optimal_values"):
        wrong = {"scores": r, "optimal_values": r, name: torch.zeros(2, 1)}
        with pytest.raises(UsageError, match=rf"{name} has shape \(2, 1\), response_mask \(2, 3\); pass one entry per"):
            optimal_advantage_regression(x, x, response_mask=mask, **wrong)
