"""TBRM: the Bellman residual of whole responses, on an enumerated token tree."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import TrajectoryBellmanResidual, optimal_advantage_regression, trajectory_bellman_residual
from rl4llm.testing.reference.regression import TokenTree, loop_bellman_residual
from rl4llm.testing.strategies import rollouts, tensors
from tests.log_probs import random_log_probs

TREE = TokenTree()
STATES, IDS, MASK = TREE.tokens()
BETAS = st.sampled_from([2e-3, 0.05, 0.5, 2.0])


@st.composite
def trees(draw):
    """Logits of a policy and of a reference on the tree, and a score for each of its responses."""
    logits, reference = (draw(tensors((len(TREE.prefixes), TREE.vocabulary), -1.5, 1.5)) for _ in range(2))
    return logits, reference, draw(tensors((len(TREE.responses),), -1.0, 1.0))


def residual_loss(logits, reference, r, beta, **options):
    """The loss of every response of the tree."""
    initial = logits[0].logsumexp(0).expand(len(r))
    return trajectory_bellman_residual(
        TREE.log_probs(logits), initial, TREE.log_probs(reference), r, MASK, beta=beta, **options
    )


def gradient(function, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


@given(trees(), BETAS)
def test_three_forms_agree(drawn, beta):
    logits, reference, r = drawn
    ref = TREE.log_probs(reference)
    got = residual_loss(logits, reference, r, beta)
    # Logit of the first token, log-probs of the others.
    first = logits[STATES, IDS][:, 0]
    others = torch.where(MASK, TREE.log_probs(logits), 0.0)[:, 1:].sum(-1)
    raw = (first + others - torch.where(MASK, ref, 0.0).sum(-1) - r / beta) ** 2
    # Bellman residuals of tokens, summed.
    summed = loop_bellman_residual(logits[STATES, IDS], logits.logsumexp(-1)[STATES], ref, r, MASK, beta=beta)
    torch.testing.assert_close(got, raw, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, summed, rtol=1e-12, atol=1e-12)


@given(trees(), BETAS)
def test_the_residual_vanishes_at_the_soft_optimal_q_for_every_response(drawn, beta):
    _, reference, r = drawn
    loss = residual_loss(TREE.soft_optimal_q(reference, r, beta=beta), reference, r, beta)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-20)


@given(trees(), BETAS, st.floats(-3.0, 3.0), st.integers(1, len(TREE.prefixes) - 1))
def test_logits_may_shift_at_every_state_but_the_prompt(drawn, beta, shift, state):
    logits, reference, r = drawn
    loss = residual_loss(logits, reference, r, beta)
    later, prompt = logits.clone(), logits.clone()
    later[state] += shift
    prompt[0] += shift
    torch.testing.assert_close(residual_loss(later, reference, r, beta), loss, rtol=1e-9, atol=1e-9)
    ratio = torch.where(MASK, TREE.log_probs(logits) - TREE.log_probs(reference), 0.0).sum(-1)
    residual = logits[0].logsumexp(0) + ratio - r / beta
    moved = residual_loss(prompt, reference, r, beta)
    torch.testing.assert_close(moved, (residual + shift) ** 2, rtol=1e-9, atol=1e-9)


@given(trees(), BETAS)
def test_with_its_own_value_the_optimal_advantage_regression_is_this_loss_times_beta_squared(drawn, beta):
    logits, reference, r = drawn
    value = beta * logits[0].logsumexp(0).expand(len(r))
    log_probs, ref = TREE.log_probs(logits), TREE.log_probs(reference)
    other = optimal_advantage_regression(log_probs, ref, r, value, MASK, beta=beta)
    torch.testing.assert_close(other, beta**2 * residual_loss(logits, reference, r, beta), rtol=1e-9, atol=1e-12)


@given(trees(), BETAS)
def test_the_gradient_flows_through_the_policy_and_the_value_of_the_prompt(drawn, beta):
    logits, reference, r = drawn
    got = gradient(lambda x: residual_loss(x, reference, r, beta).sum(), logits)
    ratio = torch.where(MASK, TREE.log_probs(logits) - TREE.log_probs(reference), 0.0).sum(-1)
    residual = logits[0].logsumexp(0) + ratio - r / beta

    def linear(x):
        policy = torch.where(MASK, TREE.log_probs(x), 0.0).sum(-1)
        return (2 * residual * (x[0].logsumexp(0) + policy)).sum()

    torch.testing.assert_close(got, gradient(linear, logits), rtol=1e-10, atol=1e-10)
    frozen = gradient(
        lambda x: trajectory_bellman_residual(
            TREE.log_probs(x), logits[0].logsumexp(0).expand(len(r)), TREE.log_probs(reference), r, MASK, beta=beta
        ).sum(),
        logits,
    )
    pull = gradient(lambda x: (2 * residual * x[0].logsumexp(0)).sum(), logits)
    torch.testing.assert_close(got, frozen + pull, rtol=1e-10, atol=1e-10)


@given(trees(), BETAS, st.floats(-40.0, 40.0))
def test_calibrated_the_reference_without_reward_has_no_loss_and_no_gradient(drawn, beta, shift):
    _, reference, r = drawn
    reference = reference + shift
    level = reference[0].logsumexp(0).expand(len(r))
    nothing = torch.zeros_like(r)

    def calibrated(x):
        return residual_loss(x, reference, nothing, beta, ref_initial_logsumexp=level)

    torch.testing.assert_close(calibrated(reference), nothing, rtol=0, atol=1e-20)
    assert gradient(lambda x: calibrated(x).sum(), reference).abs().max() < 1e-10
    raw = residual_loss(reference, reference, nothing, beta)
    torch.testing.assert_close(raw, level**2, rtol=1e-9, atol=1e-9)  # what ReVal repairs


@given(rollouts(), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.booleans())
def test_masked_positions_and_unscorable_responses_are_inert(batch, garbage, calibrated):
    mask, r = batch.response_mask, batch.scores
    component = TrajectoryBellmanResidual(beta=0.5, calibrated=calibrated)
    gradients = []
    for clean in (True, False):
        names = ("ref_log_probs", "ref_logsumexp")
        fields = {n: getattr(batch, n) if clean else getattr(batch, n).masked_fill(~mask, garbage) for n in names}
        inputs = [x if clean else x.masked_fill(~mask, garbage) for x in (batch.old_log_probs, batch.values)]
        log_probs, logsumexp = (x.clone().requires_grad_() for x in inputs)
        loss = component(PolicyOutput(log_probs, logsumexp=logsumexp), batch.replace(advantages=None, **fields))
        loss.sum().backward()
        assert not loss[r.isnan() | ~mask.any(-1)].any()
        gradients.append(torch.stack([log_probs.grad, logsumexp.grad]))
    assert torch.equal(*gradients)
    first = mask & (mask.cumsum(-1) == 1)
    assert not gradients[0][0][~mask | r.isnan()[:, None]].any()
    assert not gradients[0][1][~first | r.isnan()[:, None]].any()
    torch.testing.assert_close(gradients[0][1][first], gradients[0][0][first])


@given(rollouts(), st.booleans())
def test_a_component_reads_the_first_trained_token(batch, calibrated):
    batch = batch.replace(rewards=batch.rewards + 0.25)  # shaping counts
    rows = torch.arange(len(batch))
    first = [row.nonzero()[0].item() if row.any() else 0 for row in batch.response_mask]
    logsumexp = batch.values + 7.0
    expected = trajectory_bellman_residual(
        batch.old_log_probs,
        logsumexp[rows, first],
        batch.ref_log_probs,
        batch.outcomes,
        batch.response_mask,
        beta=0.3,
        ref_initial_logsumexp=batch.ref_logsumexp[rows, first] if calibrated else None,
    )
    component = TrajectoryBellmanResidual(beta=0.3, calibrated=calibrated)
    policy = PolicyOutput(batch.old_log_probs, logsumexp=logsumexp)
    assert torch.equal(component(policy, batch.replace(advantages=None)), expected)
    assert component.reads == (("ref_log_probs", "ref_logsumexp") if calibrated else ("ref_log_probs",))
    assert component.asks == ("logsumexp",)
    assert component.level == "response"
    assert eval(repr(component)) == pickle.loads(pickle.dumps(component)) == component
    for name in component.reads:
        with pytest.raises(UsageError, match=rf"TrajectoryBellmanResidual needs {name}.*reference policy"):
            component(policy, batch.replace(**{name: None}))
    with pytest.raises(UsageError, match=r"TrajectoryBellmanResidual needs policy.logsumexp, got None; call token_log"):
        component(PolicyOutput(batch.old_log_probs), batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_residuals_of_hundreds_survive_every_dtype(dtype):
    log_probs, mask = torch.full((1, 1000), -1.0, dtype=dtype), torch.ones(1, 1000, dtype=torch.bool)
    value, ref = torch.tensor([30.0], dtype=dtype), torch.full((1, 1000), -1.01)
    loss = trajectory_bellman_residual(log_probs, value, ref, torch.ones(1), mask)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx((30 + 10 - 500) ** 2, rel=5e-3)


def test_autograd_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x, ref = random_log_probs(2, 3, 4, generator=generator)
    v, r, ref_v = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.7

    def loss(x, v):
        return trajectory_bellman_residual(x, v, ref, r, mask, beta=0.7, ref_initial_logsumexp=ref_v)

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), v.requires_grad_()))


def test_wrong_options_and_shapes_are_one_line(unchecked_shapes):
    x, mask, r = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2)
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"TrajectoryBellmanResidual: beta must be in \(0, inf\)"):
            TrajectoryBellmanResidual(beta=beta)
        with pytest.raises(UsageError, match=r"trajectory_bellman_residual: beta must be in \(0, inf\)"):
            trajectory_bellman_residual(x, r, x, r, mask, beta=beta)
    with pytest.raises(UsageError, match="TrajectoryBellmanResidual: calibrated must be one of True, False"):
        TrajectoryBellmanResidual(calibrated="yes")
    for name in ("scores", "initial_logsumexp", "ref_initial_logsumexp"):
        wrong = {"scores": r, "initial_logsumexp": r, "ref_initial_logsumexp": r, name: torch.zeros(2, 3)}
        with pytest.raises(UsageError, match=rf"{name} has shape \(2, 3\), response_mask \(2, 3\); pass one entry per"):
            trajectory_bellman_residual(x, ref_log_probs=x, response_mask=mask, **wrong)
