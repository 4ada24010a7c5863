"""Critics while they explain the scores, the mean of the others while they do not."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, LeaveOneOut
from rl4llm.algorithms import compose
from rl4llm.checks import UsageError
from rl4llm.critics import (
    ExplainedVarianceSwitch,
    ExplainedVarianceSwitchSource,
    MiniCritics,
    TrunkCritic,
    critic_mean,
    critic_std,
    explained_variance,
    leave_one_out_mean,
)
from rl4llm.masked import spread
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in
from rl4llm.testing.views import with_scores
from tests.algorithms.helpers import Watch, critic_slots, run
from tests.critics.helpers import NAN, Said, batch_of

CONTEXT = stand_in()
FEWER = settings(max_examples=settings.default.max_examples // 3)


def source(inner=None, **options):
    return ExplainedVarianceSwitchSource(inner or Said(), ExplainedVarianceSwitch(**options))


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def explained(values, batch):
    return explained_variance(values, spread(batch.outcomes, batch.scored_mask), batch.scored_mask).item()


def mean_of_others(batch):
    return spread(leave_one_out_mean(batch.outcomes, batch.group_ids), batch.response_mask)


@FEWER
@given(rollouts(), st.sampled_from([-5.0, 0.0, 0.1]))
def test_the_batch_s_own_explained_variance_decides(batch, threshold):
    values = batch.response_mask * batch.outcomes.nan_to_num()[:, None] * 0.5 + 0.1 * batch.values
    for said in (batch.values, values):  # seldom and often above the threshold
        own = batch.replace(values=said)
        expected = torch.where(batch.response_mask, said, 0.0)
        expected = expected if explained(said, batch) > threshold else mean_of_others(batch)
        close(source(threshold=threshold).values(own, CONTEXT).values, expected)


@FEWER
@given(rollouts())
def test_frozen_at_either_side_it_is_the_critics_or_rloo(batch):
    close(
        source(threshold=-torch.inf).values(batch, CONTEXT).values, torch.where(batch.response_mask, batch.values, 0.0)
    )
    close(source(threshold=torch.inf).values(batch, CONTEXT).values, mean_of_others(batch))


@FEWER
@given(rollouts(shaped=False), st.sampled_from([0.0, 1.0, 0.1]), st.booleans())
def test_without_variance_there_is_no_advantage(batch, score, per_critic):
    tied = with_scores(batch, torch.full_like(batch.scores, score))
    judged = source(per_critic=per_critic).values(tied, CONTEXT)
    assert not GAE(lam=1.0)(judged).advantages.any()


@FEWER
@given(rollouts(shaped=False))
def test_constant_critics_are_not_used(batch):
    constant = batch.replace(values=torch.full_like(batch.values, 0.5))
    judged = source(threshold=1e-9).values(constant, CONTEXT)  # their EV is 0 up to rounding
    close(judged.values, mean_of_others(batch))
    counts = [(~batch.scores.isnan() & (batch.group_ids == own)).sum() for own in batch.group_ids]
    siblings = torch.tensor([int(count) > 1 for count in counts])
    close(GAE(lam=1.0)(judged).advantages[siblings], LeaveOneOut()(batch).advantages[siblings])


@FEWER
@given(rollouts(), st.sampled_from([0.0, 0.3, -2.0]))
def test_each_critic_may_be_switched_by_its_own(batch, threshold):
    right = spread(batch.outcomes.nan_to_num(), batch.response_mask)
    critics = torch.stack([right + 0.01 * x if m % 2 else x for m, x in enumerate(batch.critic_values)])
    batch = batch.replace(critic_values=critics, values=critic_mean(critics))
    used = [x for x in critics if explained(x, batch) > threshold]
    expected = sum(used) / len(used) if used else mean_of_others(batch)
    judged = source(threshold=threshold, per_critic=True).values(batch, CONTEXT)
    close(judged.values, torch.where(batch.response_mask, expected, 0.0))


@FEWER
@given(rollouts(), st.booleans(), st.sampled_from([-torch.inf, 0.0, torch.inf]))
def test_the_spread_of_the_critics_stays(batch, per_critic, threshold):
    judged, mask = source(threshold=threshold, per_critic=per_critic).values(batch, CONTEXT), batch.response_mask
    close(critic_std(judged.critic_values)[mask], critic_std(batch.critic_values)[mask])
    close(judged.critic_values.mean(0)[mask], judged.values[mask])
    assert not judged.values[~mask].any()


def solved(good):
    """Two prompts of two responses; critics that know the outcome, or say the opposite."""
    scores = [1.0, 0.0, 1.0, 0.0]
    values = torch.tensor([[s if good else 1 - s] * 3 for s in scores], dtype=torch.float64)
    batch = batch_of([1, 1, 2, 2], scores, values=values, critic_values=torch.stack([values, 1 - values]))
    return batch.replace(group_ids=torch.tensor([0, 0, 1, 1]))


def test_with_a_lag_the_batch_before_decides():
    switch = source(lag=1)
    good, bad = solved(True), solved(False)
    assert torch.equal(switch.values(good, CONTEXT).values, mean_of_others(good))  # nothing is known at first
    switch.learn(good, CONTEXT)
    assert torch.equal(switch.values(bad, CONTEXT).values, bad.values)
    switch.learn(bad, CONTEXT)
    assert torch.equal(switch.values(good, CONTEXT).values, mean_of_others(good))
    now = source()
    assert torch.equal(now.values(good, CONTEXT).values, good.values)
    assert torch.equal(now.values(bad, CONTEXT).values, mean_of_others(bad))


def test_the_lagged_number_is_of_values_from_before_they_learn_and_is_saved():
    class Worse(Said):
        """Turns its values around when it learns."""

        def values(self, batch, context):
            return batch.replace(values=1 - batch.values if self.learned else batch.values)

    switch = source(Worse(), lag=1)
    switch.learn(solved(True), CONTEXT)
    assert switch.get_extra_state()["explained"].tolist() == [1.0]
    fresh = source(lag=1)
    fresh.load_state_dict(switch.state_dict())
    assert torch.equal(fresh.values(solved(False), CONTEXT).values, solved(False).values)
    fresh.load_state_dict(source(lag=1).state_dict())
    assert torch.equal(fresh.values(solved(True), CONTEXT).values, mean_of_others(solved(True)))


@FEWER
@given(rollouts())
def test_critics_learn_from_their_own_values(batch):
    switch = source(Said(batch), threshold=torch.inf)
    switch.learn(switch.values(batch, CONTEXT), CONTEXT)
    (learned,) = switch.inner.learned
    assert torch.equal(learned.values, batch.values)
    assert torch.equal(learned.critic_values, batch.critic_values)


def test_it_logs_what_the_critics_explain_and_how_many_are_used():
    logged = {}
    context = replace(CONTEXT, log=lambda name, numbers: logged.update({name: numbers.tolist()}))
    source(per_critic=True).values(solved(True), context)
    assert logged == {"switch_explained_variance": [1.0, -3.0], "used_share": [1.0, 0.0]}
    source().values(solved(True), context)
    assert logged == {"switch_explained_variance": [1.0], "used_share": [1.0]}


def test_what_cannot_be_switched_is_one_line(tiny_policy, tiny_critic, unchecked_shapes):
    good = ExplainedVarianceSwitch(MiniCritics(tiny_critic, shards="prompt"))
    good.check(tiny_policy, 1)
    assert set(good.build(tiny_policy, None).learners) == {"critic_0", "critic_1"}
    with pytest.raises(UsageError, match=r"^ExplainedVarianceSwitch: critics=TrunkCritic is trained with[^\n]*$"):
        ExplainedVarianceSwitch(TrunkCritic()).check(tiny_policy, 4)
    with pytest.raises(UsageError, match=r"^ExplainedVarianceSwitch: lag must be one of 0, 1, got 2"):
        ExplainedVarianceSwitch(lag=2)
    with pytest.raises(UsageError, match=r"^ExplainedVarianceSwitch: threshold must be in "):
        ExplainedVarianceSwitch(threshold=NAN)
    alone = solved(True).replace(critic_values=None)
    with pytest.raises(UsageError, match=r"^ExplainedVarianceSwitch\(per_critic=True\) needs critic_values"):
        source(per_critic=True).values(alone, CONTEXT)


def test_critics_that_learn_first_are_refused(tiny_policy, tiny_critic):
    switch = ExplainedVarianceSwitch(MiniCritics(tiny_critic))
    slots = critic_slots(tiny_critic, learn_critics_first=True) | {"critics": switch}
    with pytest.raises(UsageError, match=r"^learn_critics_first=true would show critics=ExplainedVarianceSwitch the "):
        compose(tiny_policy, **slots)


@pytest.mark.parametrize("options", [{}, {"lag": 1}, {"per_critic": True}, {"per_critic": True, "lag": 1}], ids=str)
def test_it_runs_in_the_loop(tiny_policy, tiny_critic, options):
    switch = ExplainedVarianceSwitch(MiniCritics(tiny_critic), **options)
    module, watch = compose(tiny_policy, **critic_slots(tiny_critic) | {"critics": switch}), Watch()
    run(module, steps=2, callbacks=[watch])
    assert all("critics/switch_explained_variance" in step for step in watch.steps)
    assert watch.steps[-1]["critics/used_share"] in (0.0, 0.5, 1.0)
