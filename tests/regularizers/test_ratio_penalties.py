"""Penalties by the ratio and the log-ratio, imitation, and the value head."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.critics import value_loss
from rl4llm.objectives import ImportanceWeighted, RatioVariance, reinforce
from rl4llm.regularizers import (
    Likelihood,
    LogRatioPenalty,
    RatioPenalty,
    ValueRegression,
    likelihood_bonus,
    log_ratio_distance,
    ratio_deviation,
)
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved

FUNCTIONS = {"ratio_deviation": ratio_deviation, "log_ratio_distance": log_ratio_distance}
any_function = st.sampled_from(list(FUNCTIONS.values()))
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
KINDS = [RatioPenalty, LogRatioPenalty, Likelihood, ValueRegression]


@st.composite
def arguments(draw):
    """Log-probs, those of a policy nearby, and mask."""
    mask = draw(masks())
    log_probs = draw(tensors(tuple(mask.shape), -6.0, -0.01))
    return [log_probs, moved(log_probs, 0.3 * draw(tensors(tuple(mask.shape)))), mask]


def value_and_gradient(function, x, *others):
    x = x.clone().requires_grad_()
    value = function(x, *others)
    value.sum().backward()
    return value.detach(), x.grad


@given(arguments())
def test_values_and_gradients_are_the_closed_forms(drawn):
    new, old, mask = drawn
    value, slope = value_and_gradient(ratio_deviation, *drawn)
    distance, sign = value_and_gradient(log_ratio_distance, *drawn)
    penalty, constant = value_and_gradient(likelihood_bonus, new, mask)
    for row in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            d = new[row, t].item() - old[row, t].item() if mask[row, t] else 0.0
            r = math.exp(d)
            assert value[row, t].item() == pytest.approx((r - 1) ** 2, rel=1e-9, abs=1e-14)
            assert slope[row, t].item() == pytest.approx(2 * r * (r - 1), rel=1e-9, abs=1e-14)
            assert distance[row, t].item() == pytest.approx(abs(d), rel=1e-12)
            assert sign[row, t].item() == (d > 0) - (d < 0)
    assert torch.equal(penalty, torch.where(mask, -new, 0.0))
    assert torch.equal(constant, -mask.double())
    assert torch.equal(penalty, reinforce(new, torch.ones_like(new), mask))


@given(rollouts(), st.sampled_from([0.0, 0.04, 2.0]))
def test_importance_weighting_beside_the_ratio_penalty_is_ratio_variance(batch, multiplier):
    def both(x):
        policy = PolicyOutput(x)
        return ImportanceWeighted()(policy, batch) + RatioPenalty(coef=multiplier)(policy, batch)

    def one(x):
        return RatioVariance(multiplier=multiplier)(PolicyOutput(x), batch)

    for got, expected in zip(
        value_and_gradient(both, batch.ref_log_probs), value_and_gradient(one, batch.ref_log_probs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(arguments(), st.floats(0.01, 2.0), st.sampled_from([-1.5, -0.01, 0.3, 2.0]))
def test_the_gradient_vanishes_where_advantage_and_penalty_balance(drawn, multiplier, advantage):
    balance = 1 + advantage / (2 * multiplier)
    if balance <= 0.01:
        return
    _, old, mask = drawn
    old = old - math.log(1000)  # the balance stays a log-prob

    def loss(x):
        return -advantage * (x - old).exp() + multiplier * ratio_deviation(x, old, mask)

    _, slope = value_and_gradient(loss, old + math.log(balance))
    assert slope[mask].abs().max() < 1e-9 * max(1.0, balance * abs(advantage)) if mask.any() else True


@given(arguments(), st.floats(0.05, 0.5))
def test_a_penalty_scaled_by_the_advantage_has_its_optimum_one_width_away(drawn, width):
    new, old, mask = drawn
    new, old = new - 1, old - 1  # the optimum stays a log-prob
    advantages = old.cos()
    coefficient = advantages.abs() / (2 * width)  # SPO: r (A − |A| (r − 1) / ε), zero at 1 + ε sign A

    def loss(x):
        return -advantages * (x - old).exp() + coefficient * ratio_deviation(x, old, mask)

    _, slope = value_and_gradient(loss, new)
    r = (new - old).exp()
    expected = -r * (advantages - advantages.abs() / width * (r - 1))
    torch.testing.assert_close(slope[mask], expected[mask], rtol=1e-9, atol=1e-12)
    optimum = (1 + width * advantages.sign()).log() + old
    _, slope = value_and_gradient(loss, optimum)
    torch.testing.assert_close(slope[mask], torch.zeros_like(slope[mask]), rtol=0, atol=1e-12)


@given(st.integers(2, 6), st.integers(0, 2**31), st.floats(0.01, 2.0))
def test_the_expected_ratio_deviation_is_the_variance_and_bounds_the_divergences(vocabulary, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(1, vocabulary, dtype=torch.float64, generator=generator).log_softmax(-1)
    new = (old + scale * torch.randn(1, vocabulary, dtype=torch.float64, generator=generator)).log_softmax(-1)
    mask, ratios = torch.ones(1, vocabulary, dtype=torch.bool), (new - old).exp()
    chi = (old.exp() * ratio_deviation(new, old, mask)).sum()
    assert (old.exp() * ratios).sum().item() == pytest.approx(1)
    torch.testing.assert_close(chi, (old.exp() * ratios**2).sum() - 1, rtol=1e-9, atol=1e-12)
    assert (new.exp() - old.exp()).abs().sum() / 2 <= chi.sqrt() / 2 + 1e-12
    assert (new.exp() * (new - old)).sum() <= torch.log1p(chi) + 1e-12


def test_for_small_steps_the_kl_is_half_the_ratio_deviation():
    old = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    new = (old + 1e-4 * torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)).log_softmax(-1)
    chi = (old.exp() * ratio_deviation(new, old, torch.ones(1, 3, dtype=torch.bool))).sum()
    assert (new.exp() * (new - old)).sum().item() == pytest.approx(chi.item() / 2, rel=1e-3)


def test_the_optimum_of_a_policy_stays_nearer_the_larger_the_coefficient():
    old = torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.1]], dtype=torch.float64).log()
    advantages, mask = torch.tensor([[1.0, -0.5, 0.3, -1.0, 0.2]]).double(), torch.ones(1, 5, dtype=torch.bool)
    moves = []
    for coef in (0.04, 0.4, 4.0, 400.0):
        logits = old.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def closure(logits=logits, optimizer=optimizer, coef=coef):
            optimizer.zero_grad()
            new = logits.log_softmax(-1)
            loss = (old.exp() * (coef * ratio_deviation(new, old, mask) - (new - old).exp() * advantages)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        moves.append((old.exp() * ratio_deviation(logits.detach().log_softmax(-1), old, mask)).sum().item())
    assert moves == sorted(moves, reverse=True)
    assert moves[0] > 1
    assert moves[-1] < 1e-5


@given(any_function, arguments(), st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]))
def test_masked_positions_are_never_read_and_the_anchor_gets_no_gradient(function, drawn, garbage):
    new, old, mask = drawn
    clean = value_and_gradient(function, *drawn)
    anchor = old.masked_fill(~mask, garbage)
    dirty = value_and_gradient(function, new.masked_fill(~mask, garbage), anchor, mask)
    assert all(torch.equal(x, y) for x, y in zip(clean, dirty, strict=True))
    assert all(not x[~mask].any() for x in dirty)
    dirty = value_and_gradient(likelihood_bonus, new.masked_fill(~mask, garbage), mask)
    assert all(torch.equal(x, y) for x, y in zip(value_and_gradient(likelihood_bonus, new, mask), dirty, strict=True))


@given(any_function, arguments())
def test_at_the_start_of_the_update_there_is_no_penalty_and_no_gradient(function, drawn):
    new, _, mask = drawn
    assert not any(x.any() for x in value_and_gradient(function, new, new, mask))


def test_small_deviations_keep_their_digits_and_large_ones_a_finite_gradient():
    mask = torch.ones(1, 1, dtype=torch.bool)
    small = 10.5 * 2**-23  # between two neighbours of float32 at 1: exp(d) − 1 would be off by 5 %
    value = ratio_deviation(torch.tensor([[-0.125]]), torch.tensor([[-0.125 - small]]), mask)
    torch.testing.assert_close(value, torch.tensor([[small**2]]), rtol=1e-5, atol=0)
    value, slope = value_and_gradient(ratio_deviation, torch.zeros(1, 1), torch.full((1, 1), -1e3), mask)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert slope > 1e17


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_log_ratios_are_formed_in_float32_and_given_back(function, dtype):
    new, old = torch.tensor([[-5.0]], dtype=dtype), torch.tensor([[-5.01]])
    mask = torch.tensor([[True]])
    value = function(new, old, mask)
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), function(new.double(), old.double(), mask), rtol=4e-3, atol=0)
    assert likelihood_bonus(new, mask).dtype == dtype


@given(rollouts(), st.floats(0.0, 3.0))
def test_a_component_is_its_function_times_coef(batch, coef):
    new, old, mask = batch.ref_log_probs, batch.old_log_probs, batch.response_mask
    policy = PolicyOutput(new, values=batch.critic_values[0])
    pairs = [
        (RatioPenalty(coef), ratio_deviation(new, old, mask)),
        (LogRatioPenalty(coef), log_ratio_distance(new, old, mask)),
        (Likelihood(coef), likelihood_bonus(new, mask)),
        (ValueRegression(coef), value_loss(batch.critic_values[0], batch.returns, batch.scored_mask)),
    ]
    for component, expected in pairs:
        assert torch.equal(component(policy, batch), coef * expected)


@given(rollouts())
def test_the_value_head_learns_the_returns_of_responses_that_were_scored(batch):
    values = batch.critic_values[0].clone().requires_grad_()
    batch = batch.replace(returns=batch.returns.masked_fill(batch.scores.isnan()[:, None], torch.nan))
    ValueRegression()(PolicyOutput(batch.old_log_probs, values=values), batch).sum().backward()
    expected = torch.where(batch.scored_mask, values - batch.returns, 0.0).detach()
    torch.testing.assert_close(values.grad, expected)  # 0.5 · 2 (V − R)


@given(rollouts())
def test_what_the_value_head_needs_is_named(batch):
    assert (ValueRegression.reads, ValueRegression.asks) == (("returns",), ("values",))
    with pytest.raises(UsageError, match=r"ValueRegression needs policy.values, got None; use a policy with a value"):
        ValueRegression()(PolicyOutput(batch.old_log_probs), batch)
    with pytest.raises(UsageError, match="ValueRegression needs returns"):
        ValueRegression()(PolicyOutput(batch.old_log_probs, values=batch.values), batch.replace(returns=None))


def test_defaults_are_those_of_the_papers():
    assert [kind().coef for kind in KINDS] == [0.04, 1.0, 0.1, 0.5]
    assert all(kind().where is None for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_is_a_value_and_refuses_a_negative_weight(kind):
    component = kind(coef=0.7)
    assert eval(repr(component)) == pickle.loads(pickle.dumps(component)) == component
    with pytest.raises(UsageError, match=rf"{kind.__name__}: coef must be in \[0, inf\), got -0.1"):
        kind(coef=-0.1)


def test_wrong_shapes_are_one_line(unchecked_shapes):
    right, wrong, mask = torch.zeros(2, 2), torch.zeros(2), torch.ones(2, 2, dtype=torch.bool)
    for name, function in FUNCTIONS.items():
        with pytest.raises(UsageError, match=rf"{name}: old_log_probs has shape \(2,\), response_mask \(2, 2\)"):
            function(right, wrong, mask)
    with pytest.raises(UsageError, match=r"likelihood_bonus: log_probs has shape \(2,\), response_mask \(2, 2\)"):
        likelihood_bonus(wrong, mask)
