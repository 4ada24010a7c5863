"""The blend by disagreement: both ends, what a response may influence, and where the critics are believed."""

from dataclasses import replace
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, LeaveOneOut
from rl4llm.checks import UsageError
from rl4llm.critics import (
    MiniCritics,
    SpreadBlend,
    SpreadBlendSource,
    SymmetricCritic,
    ValueSource,
    prior_variances,
    spread_trust,
)
from rl4llm.critics.spread_blend import NOISES
from rl4llm.masked import spread
from rl4llm.testing import check_value_source
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in
from tests.algorithms.helpers import Watch, loop, run
from tests.critics.helpers import NAN, Said, batch_of, doubles

CONTEXT = stand_in()
FEWER = settings(max_examples=settings.default.max_examples // 3)
noises = st.sampled_from([0.0, 0.01, 1.0, 100.0, inf])


def source(noise=inf):
    blend = SpreadBlendSource(Said())
    blend.noise = noise
    return blend


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def groups_of_three(values, spreads, scores=(1.0, 0.0, 0.0, 1.0, 1.0, 0.0)):
    """Two prompts with three responses of three tokens each, and two critics around these values."""
    batch = batch_of([5, 5, 5, 6, 6, 6], scores).replace(group_ids=torch.tensor([0, 0, 0, 1, 1, 1]))
    values, spreads = (x.expand(6, 3).clone() for x in (values, spreads))
    return batch.replace(values=values, critic_values=torch.stack([values - spreads, values + spreads]))


@FEWER
@given(rollouts(), noises)
def test_it_is_the_gain_of_a_kalman_filter(batch, noise):
    mask, prior, sigma = batch.response_mask, batch.values.square(), batch.return_spread
    found = spread_trust(prior, sigma, mask, noise=noise)
    for row, step in mask.nonzero().tolist():
        p, error = prior[row, step].item(), 0.0 if noise == inf else noise * sigma[row, step].item() ** 2
        expected = 0.0 if noise == inf else 1.0 if error == 0 else p / (p + error)
        assert found[row, step].item() == pytest.approx(expected, abs=1e-10)
    assert not found[~mask].any()


def test_it_falls_with_the_disagreement_and_with_the_noise():
    prior, mask = torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool)
    sigma = torch.tensor([[0.0, 0.5, 1.0, 2.0]])
    trusts = [spread_trust(prior, sigma, mask, noise=noise) for noise in (0.1, 1.0, 10.0)]
    assert all((trust.diff() < 0).all() for trust in trusts)
    assert (trusts[0] >= trusts[1]).all()
    assert (trusts[1][0, 1:] > trusts[2][0, 1:]).all()


@FEWER
@given(rollouts(shaped=False))
def test_the_prior_is_the_variance_of_the_others_mean_and_how_far_values_move(batch):
    mask, groups, scores = batch.response_mask, batch.group_ids.tolist(), batch.scores
    found = prior_variances(scores, batch.group_ids, batch.values, mask)
    rows = [values[kept].tolist() for values, kept in zip(batch.values, mask, strict=True)]
    moves = [(value - row[0]) ** 2 for row in rows for value in row]
    h = sum(moves) / max(1, len(moves))
    for row in mask.any(-1).nonzero()[:, 0].tolist():
        siblings = [j for j in range(len(batch)) if j != row and groups[j] == groups[row]]
        others = scores[siblings][~scores[siblings].isnan()]
        s = others.var(unbiased=False).item() / max(1, len(others) - 1) if len(others) else 0.0
        assert found[row][mask[row]].tolist() == pytest.approx([s + h] * int(mask[row].sum()), rel=1e-7, abs=1e-9)


@FEWER
@given(rollouts(shaped=False))
def test_at_infinity_it_is_rloo_and_at_zero_the_critics(batch):
    has = torch.tensor(
        [bool(((~batch.scores.isnan()) & (batch.group_ids == own)).sum() > 1) for own in batch.group_ids]
    )
    found = GAE(lam=1.0)(source(inf).values(batch, CONTEXT)).advantages
    close(found[has], LeaveOneOut()(batch).advantages[has])
    critics = GAE(lam=1.0)(source(0.0).values(batch, CONTEXT)).advantages
    close(critics, GAE(lam=1.0)(batch).advantages)


@FEWER
@given(rollouts(shaped=False), noises, st.data())
def test_a_response_has_no_say_in_its_own_baseline(batch, noise, data):
    row = data.draw(st.integers(0, len(batch) - 1))
    others = torch.arange(len(batch)) != row
    if not (~batch.scores[others].isnan()).any():
        return  # the only scored response is its own mean
    scores = batch.scores.clone()
    scores[row] = 1.0 - scores[row].nan_to_num(0.0)
    mask = (torch.arange(len(batch)) == row)[:, None] & batch.response_mask
    edited = batch.replace(scores=scores, rewards=torch.where(mask, 0.0, batch.rewards))
    close(source(noise).values(edited, CONTEXT).values[row], source(noise).values(batch, CONTEXT).values[row])


def test_a_batch_is_judged_by_the_noise_of_the_one_before():
    batch, blend = groups_of_three(doubles(0.5), doubles(0.1)), source(inf)
    before = blend.values(batch, CONTEXT).values
    blend.learn(batch, CONTEXT)
    assert torch.equal(source(inf).values(batch, CONTEXT).values, before)


def test_critics_are_believed_where_they_agree():
    """At the first two tokens the critics are right and agree; at the last they are far off and disagree."""
    batch = groups_of_three(doubles(0.0), doubles(0.0))
    truth = spread(batch.scores, batch.response_mask)
    agree = torch.arange(3) < 2
    values = torch.where(agree, truth, 1.0 - truth)
    sigma = torch.where(agree, 0.01, 0.5).double().expand_as(values)
    batch = batch.replace(values=values, critic_values=torch.stack([values - sigma, values + sigma]))
    blend = source()
    blend.learn(batch, CONTEXT)
    assert 0.0 < blend.noise < inf
    after = blend.values(batch, CONTEXT).values
    rloo = source().values(batch, CONTEXT).values
    assert ((after - truth).abs() < 0.2 * (rloo - truth).abs())[:, :2].all()
    error, of_critics = (after - truth)[:, 2].abs(), (values - truth)[:, 2].abs()
    assert (error <= of_critics).all()
    assert (error[1:5] < 0.6 * of_critics[1:5]).all()  # those whose siblings do not all say the wrong thing


@settings(max_examples=10)  # each is evaluated once per candidate
@given(rollouts())
def test_no_candidate_does_better_than_the_fit(batch):
    blend = source()
    blend.learn(batch, CONTEXT)
    mask = batch.scored_mask
    if not mask.any():
        assert blend.noise == inf
        return

    def error(noise):
        values = source(noise).values(batch, CONTEXT).values
        return (spread(batch.outcomes, mask) - values)[mask].square().mean().item()

    assert error(blend.noise) <= min(map(error, NOISES[::2])) + 1e-9


@pytest.mark.parametrize(("values", "expected"), [([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 0.0), ([-9.0] * 6, inf)])
def test_perfect_critics_are_trusted_and_useless_ones_are_not(values, expected):
    batch = groups_of_three(doubles(*values)[:, None], doubles(0.3))
    blend = source()
    blend.learn(batch, CONTEXT)
    assert blend.noise == expected


def test_critics_that_change_nothing_are_not_trusted():
    """Every candidate of c does equally well, so the one that leaves the group mean alone is taken."""
    blend = source(0.0)
    blend.learn(groups_of_three(doubles(1.0), doubles(0.3), scores=[1.0] * 6), CONTEXT)
    assert blend.noise == inf


def test_scores_and_values_in_other_units_give_the_same_noise():
    random = torch.Generator().manual_seed(0)
    values, sigma = (torch.rand(6, 3, dtype=torch.float64, generator=random) for _ in range(2))
    scores = (8.0, 0.0, 0.0, 8.0, 8.0, 0.0)
    one, other = groups_of_three(values, sigma / 4), groups_of_three(8 * values, 2 * sigma, scores)
    blends = [source(), source()]
    for blend, batch in zip(blends, (one, other), strict=True):
        blend.learn(batch, CONTEXT)
    assert blends[0].noise == blends[1].noise
    close(blends[1].values(other, CONTEXT).values, 8 * blends[0].values(one, CONTEXT).values)


def test_nothing_is_fitted_in_a_warm_up_or_without_scores():
    blend = source()
    blend.learn(groups_of_three(doubles(0.5), doubles(0.1)), replace(CONTEXT, warming_up=True))
    blend.learn(groups_of_three(doubles(0.5), doubles(0.1), scores=[NAN] * 6), CONTEXT)
    assert blend.noise == inf


def test_the_noise_is_saved():
    for noise in (0.0, 0.1, inf):
        resumed = source()
        resumed.set_extra_state(source(noise).get_extra_state())
        assert resumed.noise == noise


class Two(ValueSource):
    """Two critics that go by the prompt."""

    def values(self, batch, context):
        first = spread((batch.prompt_uids % 7).to(batch.rewards.dtype) / 7, batch.response_mask)
        both = torch.stack([first, first.square()])
        return batch.replace(critic_values=both, values=both.mean(0))

    def learn(self, batch, context):
        """Nothing to learn."""


def test_it_keeps_the_laws_of_value_sources():
    blend = SpreadBlendSource(Two())
    blend.noise = 1.0
    check_value_source(blend, examples=10)


def test_in_the_loop_it_learns_and_logs(tiny_policy, tiny_critic):
    module = loop(tiny_policy, advantage=GAE(lam=1.0), critics=SpreadBlend(MiniCritics(tiny_critic)))
    watch = Watch()
    run(module, steps=3, callbacks=[watch])
    blends = [step["critics/blend"] for step in watch.steps]
    assert blends[0] == 0.0
    assert all(0.0 <= blend <= 1.0 for blend in blends)


@pytest.mark.parametrize(
    ("spec", "responses", "message"),
    [
        (SpreadBlend(), 1, "responses_per_prompt=1 leaves no other response to the same prompt; set"),
        (SpreadBlend(SymmetricCritic()), 4, "critics=SymmetricCritic has one critic and so no spread; use MiniCritics"),
        (SpreadBlend(MiniCritics(size=1)), 4, "critics=MiniCritics has one critic and so no spread"),
    ],
)
def test_what_cannot_be_blended_is_one_line(spec, responses, message):
    with pytest.raises(UsageError, match=f"^SpreadBlend: {message}"):
        spec.check("rl4llm/digits", responses)
    with pytest.raises(UsageError, match=r"^spread_trust: noise must be in \[0, inf\], got -1"):
        spread_trust(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), noise=-1.0)
