from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, LengthAdaptiveGAE, discounted_returns, gae, length_adaptive_gae
from rl4llm.checks import UsageError
from rl4llm.testing.reference import estimators as reference
from rl4llm.testing.strategies import masks, rollouts, tensors

# A whole batch is slow to draw.
fewer = settings(max_examples=settings().max_examples // 4)
shares = st.sampled_from([0.0, 0.5, 0.9, 0.97, 1.0])


@st.composite
def processes(draw):
    mask = draw(masks())
    return draw(tensors(tuple(mask.shape))), draw(tensors(tuple(mask.shape))), mask


def close(x, y):
    torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def following(x, mask):
    """x at the next trained token of the row, 0 after the last."""
    shifted = torch.zeros_like(x)
    for row, trained in enumerate(mask.tolist()):
        tokens = [t for t, here in enumerate(trained) if here]
        for now, then in pairwise(tokens):
            shifted[row, now] = x[row, then]
    return shifted


@given(x=processes(), gamma=shares, lam=shares, lam_returns=st.none() | shares)
def test_equals_the_sum_of_discounted_errors_over_trained_tokens(x, gamma, lam, lam_returns):
    advantages, returns = gae(*x, gamma=gamma, lam=lam, lam_returns=lam_returns)
    expected = reference.gae(*x, gamma, lam, lam if lam_returns is None else lam_returns)
    close(advantages, expected[0])
    close(returns, expected[1])


@given(x=processes(), gamma=shares, alpha=st.sampled_from([0.05, 0.4, 1.0, 3.0]), lam_returns=shares)
def test_length_adaptive_equals_its_reference(x, gamma, alpha, lam_returns):
    advantages, returns = length_adaptive_gae(*x, gamma=gamma, alpha=alpha, lam_returns=lam_returns)
    expected = reference.length_adaptive_gae(*x, gamma, alpha, lam_returns)
    close(advantages, expected[0])
    close(returns, expected[1])


def test_a_two_token_response_by_hand():
    # γ = 0.9, λ = 0.5, r = (1, 2), V = (3, 4): δ₁ = 2 − 4 = −2; δ₀ = 1 + 0.9·4 − 3 = 1.6; A₀ = 1.6 + 0.45·(−2) = 0.7.
    # R = A + V = (3.7, 2). With λ_returns = 1: A₀ = 1.6 + 0.9·(−2) = −0.2, so R₀ = 2.8 = 1 + 0.9·2.
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    mask = torch.tensor([[True, True]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.7, -2.0]]))
    torch.testing.assert_close(returns, torch.tensor([[3.7, 2.0]]))
    decoupled = gae(rewards, values, mask, gamma=0.9, lam=0.5, lam_returns=1.0)
    torch.testing.assert_close(decoupled.advantages, torch.tensor([[0.7, -2.0]]))
    torch.testing.assert_close(decoupled.returns, torch.tensor([[2.8, 2.0]]))


def test_the_defaults_are_those_of_the_papers():
    rewards, values = torch.rand(2, 30, dtype=torch.float64), torch.rand(2, 30, dtype=torch.float64)
    mask = torch.ones(2, 30, dtype=torch.bool)
    close(gae(rewards, values, mask).advantages, reference.gae(rewards, values, mask, 1.0, 0.95, 0.95)[0])
    # 30 tokens at α = 0.05: λ = 1 − 1/1.5 = 1/3; targets are Monte Carlo returns.
    adaptive = length_adaptive_gae(rewards, values, mask)
    close(adaptive.advantages, reference.gae(rewards, values, mask, 1.0, 1 / 3, 1.0)[0])
    close(adaptive.returns, discounted_returns(rewards, mask))


@given(x=processes(), gamma=shares)
def test_lam_one_is_the_return_minus_the_value_and_lam_zero_the_error(x, gamma):
    rewards, values, mask = x
    returns = discounted_returns(rewards, mask, gamma=gamma)
    close(gae(*x, gamma=gamma, lam=1.0).advantages, (returns - values) * mask)
    close(gae(*x, gamma=gamma, lam=1.0).returns, returns)
    errors = (rewards + gamma * following(values, mask) - values) * mask
    close(gae(*x, gamma=gamma, lam=0.0).advantages, errors)


@given(x=processes(), gamma=shares, lam=shares)
def test_exact_values_of_a_deterministic_process_leave_no_advantage(x, gamma, lam):
    rewards, _, mask = x
    exact = discounted_returns(rewards, mask, gamma=gamma)
    advantages, returns = gae(rewards, exact, mask, gamma=gamma, lam=lam)
    close(advantages, torch.zeros_like(rewards))
    close(returns, exact)


def test_values_one_token_late_or_early_leave_an_advantage():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    for gamma in (0.5, 1.0):
        exact = discounted_returns(rewards, mask, gamma=gamma)
        for shift in (1, -1):
            for lam in (0.0, 0.95, 1.0):
                shifted = gae(rewards, exact.roll(shift, -1), mask, gamma=gamma, lam=lam).advantages
                assert shifted.abs().max() > 0.1


@given(data=st.data(), x=processes(), gamma=shares, lam=shares)
def test_potential_shaping_changes_no_advantage(data, x, gamma, lam):
    rewards, values, mask = x
    potential = data.draw(tensors(tuple(mask.shape)))
    shaped = rewards + gamma * following(potential, mask) - potential
    expected = gae(rewards, values, mask, gamma=gamma, lam=lam).advantages
    close(gae(shaped, values - potential, mask, gamma=gamma, lam=lam).advantages, expected)


@given(data=st.data(), x=processes(), gamma=shares, lam=shares)
def test_linear_in_rewards_and_values_together(data, x, gamma, lam):
    rewards, values, mask = x
    more_rewards, more_values = (data.draw(tensors(tuple(mask.shape))) for _ in range(2))
    mixed = gae(2 * rewards - more_rewards, 2 * values - more_values, mask, gamma=gamma, lam=lam)
    one, two = (gae(*y, mask, gamma=gamma, lam=lam) for y in ((rewards, values), (more_rewards, more_values)))
    close(mixed.advantages, 2 * one.advantages - two.advantages)
    close(mixed.returns, 2 * one.returns - two.returns)


@given(data=st.data(), x=processes(), lam=shares)
def test_the_mean_value_gives_the_mean_of_the_advantages(data, x, lam):
    rewards, _, mask = x
    values = data.draw(tensors((3, *mask.shape)))
    each = torch.stack([gae(rewards, value, mask, lam=lam).advantages for value in values])
    close(gae(rewards, values.mean(0), mask, lam=lam).advantages, each.mean(0))


@fewer
@given(batch=rollouts(unscorable=False, shaped=False))
def test_an_undiscounted_outcome_minus_the_value_at_every_token(batch):
    advantages = gae(batch.rewards, batch.values, batch.response_mask, lam=1.0).advantages
    torch.testing.assert_close(
        advantages, (batch.scores[:, None] - batch.values) * batch.response_mask, rtol=1e-12, atol=1e-9
    )


def test_long_rows_cross_blocks_with_holes():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(3, 300, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 300, generator=generator) < 0.7
    expected = reference.gae(rewards, values, mask, 0.99, 0.95, 1.0)
    got = gae(rewards, values, mask, gamma=0.99, lam=0.95, lam_returns=1.0)
    close(got.advantages, expected[0])
    close(got.returns, expected[1])


def test_lam_grows_with_the_trained_length_only():
    # α = 0.05: up to 20 trained tokens λ = 0, so A = δ; 40 tokens λ = 1/2. Holes and padding do not count.
    mask = torch.zeros(2, 80, dtype=torch.bool)
    mask[0, :20] = True
    mask[1, ::2] = True
    rewards = torch.zeros(2, 80)
    rewards[0, 19] = rewards[1, 78] = 1.0
    advantages = length_adaptive_gae(rewards, torch.zeros(2, 80), mask).advantages
    expected = torch.zeros(2, 80)
    expected[0, 19] = 1.0
    expected[1, ::2] = 0.5 ** torch.arange(39, -1, -1)
    torch.testing.assert_close(advantages, expected)


def test_different_dtypes_meet_in_the_wider_one():
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert gae(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bfloat16), mask).advantages.dtype == torch.float32
    assert gae(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2).bfloat16(), mask).returns.dtype == torch.bfloat16


@fewer
@given(batch=rollouts())
def test_components_call_the_functions_on_scored_responses(batch):
    mask = batch.scored_mask
    x = batch.rewards, batch.values, mask
    for component, expected in (
        (GAE(gamma=0.9, lam=0.5, lam_returns=1.0), gae(*x, gamma=0.9, lam=0.5, lam_returns=1.0)),
        (GAE(), gae(*x)),
        (
            LengthAdaptiveGAE(gamma=0.9, alpha=0.5, lam_returns=0.5),
            length_adaptive_gae(*x, gamma=0.9, alpha=0.5, lam_returns=0.5),
        ),
        (LengthAdaptiveGAE(), length_adaptive_gae(*x)),
    ):
        advantages, returns = component(batch)
        assert torch.equal(advantages, expected.advantages)
        assert torch.equal(returns, expected.returns)
        assert (advantages[batch.scores.isnan()] == 0).all()


@settings(max_examples=1)
@given(batch=rollouts())
def test_components_ask_for_values(batch):
    for component in (GAE(), LengthAdaptiveGAE()):
        assert component.reads == ("values",)
        with pytest.raises(UsageError, match=f"^{type(component).__name__} needs values"):
            component(batch.replace(values=None))


@pytest.mark.parametrize("name", ["gamma", "lam", "lam_returns"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_shares_outside_zero_and_one_are_refused(name, value):
    x = torch.zeros(1, 1)
    with pytest.raises(UsageError, match=rf"gae: {name} must be in \[0, 1\]"):
        gae(x, x, x.bool(), **{name: value})
    with pytest.raises(UsageError, match=rf"GAE: {name} must be in \[0, 1\]"):
        GAE(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("gamma", 1.1), ("lam_returns", -1.0), ("alpha", 0.0), ("alpha", -1.0)])
def test_length_adaptive_refuses_values_out_of_range(name, value):
    x = torch.zeros(1, 1)
    with pytest.raises(UsageError, match=f"length_adaptive_gae: {name} must be in"):
        length_adaptive_gae(x, x, x.bool(), **{name: value})
    with pytest.raises(UsageError, match=f"LengthAdaptiveGAE: {name} must be in"):
        LengthAdaptiveGAE(**{name: value})


@pytest.mark.parametrize("function", [gae, length_adaptive_gae])
def test_critic_values_get_the_remedy(function, unchecked_shapes):
    mask = torch.ones(4, 8, dtype=torch.bool)
    for values in (torch.zeros(2, 4, 8), torch.zeros(4)):
        with pytest.raises(UsageError, match="pass one value per token; for critic_values use critic_mean"):
            function(torch.zeros(4, 8), values, mask)


@fewer
@given(data=st.data(), x=processes(), alpha=st.sampled_from([0.05, 0.4, 1.5, 3.0]), lam=shares)
def test_an_observation_of_any_length_changes_no_advantage(data, x, alpha, lam):
    """Tool output between actions carries neither reward nor decay; garbage there is not read (SAO's GAE)."""
    mask = x[2]
    place, columns = data.draw(st.integers(0, mask.shape[1])), data.draw(st.integers(1, 9))

    def inserted(tensor, filling):
        hole = torch.full((len(tensor), columns), filling, dtype=tensor.dtype)
        return torch.cat([tensor[:, :place], hole, tensor[:, place:]], -1)

    longer = inserted(x[0], torch.nan), inserted(x[1], torch.nan), inserted(mask, False)
    for estimate in (lambda *t: gae(*t, lam=lam), lambda *t: length_adaptive_gae(*t, alpha=alpha)):
        for before, after in zip(estimate(*x), estimate(*longer), strict=True):
            close(after, inserted(before, 0.0))


@fewer
@given(x=processes(), gamma=shares, alpha=st.sampled_from([0.05, 0.4, 1.5]), data=st.data())
def test_monte_carlo_targets_do_not_depend_on_the_values(x, gamma, alpha, data):
    rewards, values, mask = x
    others = data.draw(tensors(tuple(mask.shape)))
    expected = discounted_returns(rewards, mask, gamma=gamma)
    for v in (values, others):
        close(gae(rewards, v, mask, gamma=gamma, lam_returns=1.0).returns, expected)
        close(length_adaptive_gae(rewards, v, mask, gamma=gamma, alpha=alpha).returns, expected)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.5])
@pytest.mark.parametrize("trained", [1, 2, 3, 20, 40])
def test_the_adaptive_lambda_counts_trained_tokens_and_stays_between_0_and_1(alpha, trained):
    # Below 1/α tokens 1 − 1/(αl) is negative, and an unclamped λ would turn signs around.
    rewards, values = torch.rand(2, 2 * trained, dtype=torch.float64).split(1)
    mask = torch.arange(2 * trained)[None, :] % 2 == 0
    found = length_adaptive_gae(rewards, values, mask, alpha=alpha).advantages
    close(found, gae(rewards, values, mask, lam=min(max(1 - 1 / (alpha * trained), 0.0), 1.0)).advantages)


def test_a_value_that_is_not_a_number_is_seen_up_to_its_token_and_in_its_row_alone():
    values = torch.zeros(2, 4)
    values[0, 1] = torch.nan
    for estimates in gae(torch.ones(2, 4), values, torch.ones(2, 4, dtype=torch.bool)):
        assert estimates.isnan().tolist() == [[True, True, False, False], [False] * 4]
