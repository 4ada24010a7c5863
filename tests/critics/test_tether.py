"""Critics tied to the mean of the others: both ends, the lag, what is saved, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, LeaveOneOut, gae
from rl4llm.algorithms import compose
from rl4llm.checks import UsageError
from rl4llm.critics import (
    BetaTracker,
    MiniCritics,
    Tether,
    TetherSource,
    TrunkCritic,
    blend_coefficient,
    critic_std,
    leave_one_out_mean,
    position_bins,
    spread_bins,
)
from rl4llm.masked import spread
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in
from tests.algorithms.helpers import Watch, critic_slots, run
from tests.critics.helpers import NAN, Said, batch_of, doubles, unsurveyed

CONTEXT = stand_in()
FEWER = settings(max_examples=settings.default.max_examples // 3)
unshaped = rollouts(shaped=False)


def source(rho=0.0, inner=None, **options):
    """A tether of this ρ around something that says the batch's own values."""
    tied = TetherSource(inner or Said(), Tether(**options))
    tied.rhos.fill_(rho)
    return tied


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@FEWER
@given(unshaped)
def test_it_begins_as_rloo(batch):
    judged = source().values(batch, CONTEXT)
    has = torch.tensor(
        [bool(((~batch.scores.isnan()) & (batch.group_ids == own)).sum() > 1) for own in batch.group_ids]
    )
    found, expected = GAE(lam=1.0)(judged).advantages, LeaveOneOut()(batch).advantages
    close(found[has], expected[has])


@FEWER
@given(unshaped)
def test_at_one_it_is_the_critics(batch):
    judged = source(1.0).values(batch, CONTEXT)
    close(GAE(lam=1.0)(judged).advantages, GAE(lam=1.0)(batch).advantages)


@FEWER
@given(unshaped, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.5, 0.95, 1.0]))
def test_gae_on_the_blend_decays_the_mean_from_the_last_token(batch, rho, lam):
    """ρ A_GAE + (1 − ρ) λ^(l − t) (R − B), the last token with exponent 0: R − b where λ = 1."""
    mask = batch.scored_mask
    base = leave_one_out_mean(batch.outcomes, batch.group_ids)
    later = mask.flip(-1).cumsum(-1).flip(-1) - 1
    of_mean = torch.where(mask, lam ** later.clamp(min=0).double() * (batch.scores - base)[:, None], 0.0)
    expected = rho * gae(batch.rewards, batch.values, mask, lam=lam).advantages + (1 - rho) * of_mean
    close(GAE(lam=lam)(source(rho).values(batch, CONTEXT)).advantages, expected)


@FEWER
@given(rollouts(), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_spread_of_the_critics_stays_and_their_mean_is_the_blend(batch, rho):
    judged, mask = source(rho).values(batch, CONTEXT), batch.response_mask
    close(critic_std(judged.critic_values)[mask], critic_std(batch.critic_values)[mask])
    close(judged.critic_values.mean(0)[mask], judged.values[mask])
    assert not judged.values[~mask].any()


@FEWER
@given(rollouts(), st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 0.9]), st.booleans())
def test_it_learns_the_coefficient_of_the_critics_own_values_from_before_they_learn(batch, rho, decay, clip):
    tied = source(rho, Said(batch, step=5.0), decay=decay, clip=clip, ridge=1e-3)
    tied.learn(tied.values(batch, CONTEXT), CONTEXT)
    base = leave_one_out_mean(batch.outcomes, batch.group_ids)
    options = {"decay": decay, "clip": clip, "ridge": 1e-3, "previous": rho}
    expected = blend_coefficient(batch.outcomes, base, batch.values, batch.response_mask, **options)
    assert tied.rhos.item() == pytest.approx(expected.item(), abs=1e-12)
    (learned,) = tied.inner.learned
    assert torch.equal(learned.values, batch.values)
    assert torch.equal(learned.critic_values, batch.critic_values)


@FEWER
@given(rollouts())
def test_scores_of_a_batch_have_no_say_in_its_own_coefficient(batch):
    tied = source(0.5, decay=0.0)
    before = tied.values(batch, CONTEXT).values
    assert tied.rhos.item() == 0.5
    tied.learn(batch, CONTEXT)
    rho = tied.rhos.item()
    mask = batch.response_mask
    base = spread(leave_one_out_mean(batch.outcomes, batch.group_ids), mask)
    kept = torch.where(mask, batch.values, 0.0)
    close(before, (base + kept) / 2)
    close(tied.values(batch, CONTEXT).values, (1 - rho) * base + rho * kept)


def known(value=0.75):
    """Two prompts, one solved and one not: siblings score alike, and the critics say so to a quarter."""
    scores = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    values = torch.tensor([[value if s else 1 - value] * 3 for s in scores], dtype=torch.float64)
    batch = batch_of([1, 1, 2, 2, 3, 3], scores, values=values)
    return batch.replace(group_ids=torch.tensor([0, 0, 1, 1, 2, 2]))


def test_by_hand():
    # Unanimous prompts: R − B = 0, V − B = ∓¼. The mixed prompt: R = 1, B = 0, V = ¾ and R = 0, B = 1, V = ¼.
    # Products 0, 0, 0, 0, ¾, ¾ over squares 4/16 + 2 · 9/16: 1.5/1.375 per token, above 1.
    tied = source(decay=0.9, clip=False)
    tied.learn(known(), CONTEXT)
    assert tied.rhos.item() == pytest.approx(0.1 * 1.5 / 1.375)
    clipped = source(decay=0.9)
    clipped.learn(known(), CONTEXT)
    assert clipped.rhos.item() == pytest.approx(0.1)
    clipped.learn(known(), CONTEXT)
    assert clipped.rhos.item() == pytest.approx(0.19)


def test_nothing_is_fitted_while_the_critics_warm_up_and_they_learn_all_the_same():
    tied = source(0.2)
    tied.learn(known(), replace(CONTEXT, warming_up=True))
    assert tied.rhos.item() == 0.2
    assert len(tied.inner.learned) == 1
    tied.learn(known(), CONTEXT)
    assert tied.rhos.item() > 0.2


def test_a_degenerate_fit_is_skipped():
    batch = known()
    base = leave_one_out_mean(batch.outcomes, batch.group_ids)
    tied = source(0.2)
    tied.learn(batch.replace(values=spread(base, batch.response_mask)), CONTEXT)
    assert tied.rhos.item() == 0.2


def test_a_response_that_could_not_be_scored_has_a_baseline_and_no_say():
    batch = batch_of([1, 1, 1], [1.0, 0.0, NAN], values=torch.zeros(3, 3).double()).replace(
        group_ids=torch.tensor([0, 0, 0])
    )
    assert source().values(batch, CONTEXT).values[:, 0].tolist() == [0.0, 1.0, 0.5]


def test_the_coefficient_is_saved_to_the_last_digit_and_logged():
    tied, logged = source(0.1 + 0.2), {}
    context = replace(CONTEXT, log=lambda name, numbers: logged.update({name: numbers.item()}))
    tied.values(known(), context)
    assert logged == {"blend": pytest.approx(0.3)}
    fresh = source()
    fresh.load_state_dict(tied.state_dict())
    assert fresh.rhos.item() == 0.1 + 0.2
    assert fresh.get_extra_state()["rho"].item() == 0.1 + 0.2


def test_what_it_wraps_still_surveys_and_says_what_is_worth_drawing():
    class Asked(Said):
        def prepare(self, survey):
            self.surveyed = survey

        def priorities(self, uids):
            return uids + 1

    tied = source(inner=Asked())
    tied.prepare(unsurveyed)
    assert tied.inner.surveyed is unsurveyed
    assert tied.priorities(torch.tensor([3])).tolist() == [4]


def test_what_cannot_be_tied_is_one_line(tiny_policy, tiny_critic):
    good = Tether(MiniCritics(tiny_critic))
    good.check(tiny_policy, 2)
    assert set(good.build(tiny_policy, None).learners) == {"critic_0", "critic_1"}
    with pytest.raises(UsageError, match=r"^Tether: responses_per_prompt=1 leaves no other response[^\n]*$"):
        Tether(BetaTracker()).check(tiny_policy, 1)
    with pytest.raises(UsageError, match=r"^Tether: critics=TrunkCritic is trained with the policy's loss[^\n]*$"):
        Tether(TrunkCritic()).check(tiny_policy, 4)
    with pytest.raises(UsageError, match="more critics"):
        Tether(MiniCritics(tiny_critic, size=3)).check(tiny_policy, 2)
    for options in ({"decay": 1.1}, {"decay": -0.1}, {"ridge": -1.0}, {"ridge": torch.inf}, {"decay": NAN}):
        with pytest.raises(UsageError, match=rf"^Tether: {next(iter(options))} must be in "):
            Tether(**options)


def test_critics_that_learn_first_are_refused(tiny_policy, tiny_critic):
    slots = critic_slots(tiny_critic, learn_critics_first=True) | {"critics": Tether(MiniCritics(tiny_critic))}
    with pytest.raises(UsageError, match=r"^learn_critics_first=true would show critics=Tether the scores"):
        compose(tiny_policy, **slots)


def test_in_the_loop_it_warms_up_with_the_critics_and_logs_the_blend(tiny_policy, tiny_critic):
    tether = Tether(MiniCritics(tiny_critic), decay=0.0, clip=False)
    module = compose(tiny_policy, **critic_slots(tiny_critic, critic_warmup=1) | {"critics": tether})
    watch = Watch()
    run(module, steps=3, callbacks=[watch])
    blends = [step["critics/blend"] for step in watch.steps]
    assert blends[:2] == [0.0, 0.0]  # nothing is fitted on the batch of the warm-up
    assert blends[2] != 0.0
    assert module.critics.rhos.item() != pytest.approx(blends[2], abs=1e-9)


def test_doubles_are_doubles():
    assert source(0.3).values(known(), CONTEXT).values.dtype == torch.float64
    single = known().replace(values=known().values.float(), scores=doubles(1, 1, 0, 0, 1, 0).float())
    assert source(0.3).values(single, CONTEXT).values.dtype == torch.float32


# --- one coefficient for each bin of the spread ---------------------------------------------------------------------


@FEWER
@given(rollouts(), st.integers(1, 4))
def test_bins_are_filled_alike_and_ascend_with_the_spread(batch, bins):
    mask, spreads = batch.response_mask, critic_std(batch.critic_values)
    found = spread_bins(spreads, mask, bins=bins)
    assert not found[~mask].any()
    assert ((found >= 0) & (found < bins)).all()
    order = spreads[mask].argsort(stable=True)
    assert (found[mask][order].diff() >= 0).all()
    if len(spreads[mask].unique()) == int(mask.sum()) >= bins:
        counts = torch.bincount(found[mask], minlength=bins)
        assert counts.max() - counts.min() <= 1


def test_critics_are_believed_where_they_agree():
    """Two halves of a batch: where the critics agree they are right, where they do not they are noise."""
    batch = known()
    sure = torch.arange(3) < 2
    base = spread(leave_one_out_mean(batch.outcomes, batch.group_ids), batch.response_mask)
    truth = spread(batch.outcomes, batch.response_mask)
    values = torch.where(sure, truth, 2 * base - truth)
    wide = torch.where(sure, 0.0, 0.5).double().expand_as(values)
    batch = batch.replace(values=values, critic_values=torch.stack([values - wide, values + wide]))
    tied = source(decay=0.0, bins=2)
    tied.learn(batch, CONTEXT)
    assert tied.rhos.tolist() == pytest.approx([1.0, 0.0])
    (judged,) = tied.values(batch, CONTEXT).require("values", by="test")
    close(judged[:, :2], truth[:, :2])
    close(judged[:, 2], base[:, 2])


@FEWER
@given(rollouts())
def test_bins_of_critics_that_agree_everywhere_are_one(batch):
    batch = batch.replace(critic_values=batch.values.expand_as(batch.critic_values).clone())
    one, several = source(decay=0.0), source(decay=0.0, bins=3)
    for tied in (one, several):
        tied.learn(batch, CONTEXT)
    assert several.rhos[0].item() == pytest.approx(one.rhos.item(), abs=1e-12)
    assert several.rhos[1:].tolist() == [0.0, 0.0]


def test_the_coefficients_of_all_bins_are_saved():
    tied = source(bins=3)
    tied.rhos.copy_(torch.tensor([0.1, 0.2, 0.3]))
    other = source(bins=3)
    other.set_extra_state(tied.get_extra_state())
    assert torch.equal(other.rhos, tied.rhos)


# --- one coefficient for each stretch of positions ------------------------------------------------------------------


@FEWER
@given(rollouts(), st.integers(1, 4), st.integers(1, 3))
def test_a_stretch_is_counted_in_trained_tokens(batch, bins, width):
    mask = batch.response_mask
    found = position_bins(mask, bins=bins, width=width)
    assert not found[~mask].any()
    for row, trained in zip(found, mask, strict=True):
        expected = [min(place // width, bins - 1) for place in range(int(trained.sum()))]
        assert row[trained].tolist() == expected


def test_critics_are_believed_from_where_they_are_right():
    batch = known()
    late = torch.arange(3) >= 2
    base = spread(leave_one_out_mean(batch.outcomes, batch.group_ids), batch.response_mask)
    truth = spread(batch.outcomes, batch.response_mask)
    batch = batch.replace(values=torch.where(late, truth, 2 * base - truth))
    tied = source(decay=0.0, bins=2, width=2)
    tied.learn(batch, CONTEXT)
    assert tied.rhos.tolist() == pytest.approx([0.0, 1.0])
    (judged,) = tied.values(batch, CONTEXT).require("values", by="test")
    close(judged, torch.where(late, truth, base))


def test_a_stretch_that_no_response_reaches_keeps_its_coefficient():
    tied = source(decay=0.5, bins=3, width=3)
    tied.rhos.fill_(0.25)
    tied.learn(known(), CONTEXT)
    assert tied.rhos[0].item() != 0.25
    assert tied.rhos[1:].tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 2, "width": 0}, "^Tether: width must be a whole number of at least 1, got 0"),
        ({"bins": 1, "width": 4}, "^Tether: width=4 has no effect with bins=1; set bins to 2 or more"),
    ],
)
def test_stretches_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        Tether(**options)
    with pytest.raises(UsageError, match=r"^position_bins: width must be a whole number of at least 1, got 0"):
        position_bins(torch.ones(1, 2, dtype=torch.bool), bins=2, width=0)
    with pytest.raises(UsageError, match=r"^position_bins: bins must be a whole number of at least 1, got 0"):
        position_bins(torch.ones(1, 2, dtype=torch.bool), bins=0, width=2)
