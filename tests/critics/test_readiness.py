"""Critics whose value at a cut is believed only for prompts on which they have proved themselves (AC2)."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE
from rl4llm.algorithms import compose, judge
from rl4llm.algorithms.truncation import with_end_values
from rl4llm.checks import UsageError
from rl4llm.critics import (
    BetaTracker,
    MiniCritics,
    Privileged,
    PrivilegedSource,
    Readiness,
    ReadinessSource,
    SymmetricCritic,
    Tether,
    TetherSource,
    TrunkCritic,
    prompt_errors,
    proved_prompts,
)
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.testing import check_value_source
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in
from tests.algorithms.helpers import Watch, critic_slots, even_length, run, weights
from tests.algorithms.test_judge import NO_PASSES, made_of
from tests.algorithms.test_truncation import ByPlace, whole
from tests.critics.helpers import NAN, Said, batch_of, doubles

CONTEXT = stand_in()
FEWER = settings(max_examples=settings.default.max_examples // 4)
batches = rollouts(max_batch=6, max_time=5)


def source(inner=None, **options):
    return ReadinessSource(inner or Said(), Readiness(**options))


def seen(uid=1, value=0.5, scores=(1.0, 0.0), **fields):
    """One prompt, whose responses have these scores and this value at every token."""
    values = torch.full((len(scores), 3), value, dtype=torch.float64)
    return batch_of([uid] * len(scores), scores, **{"values": values, **fields})


def cuts(*uids):
    """Responses to these prompts that were cut."""
    batch = batch_of(uids, [0.0] * len(uids))
    return batch.replace(values=torch.zeros_like(batch.rewards), truncated=torch.ones(len(uids), dtype=torch.bool))


def believed(gate, *uids):
    return gate.believes(cuts(*uids), CONTEXT).tolist()


def logging():
    logged = {}
    return logged, replace(CONTEXT, log=lambda name, numbers: logged.update({name: numbers.tolist()}))


def reference(batch, valid):
    """Each response's error, prompt by prompt and response by response."""
    errors = []
    for own in batch.group_ids.tolist():
        gaps = []
        for row, (mask, group) in enumerate(zip(batch.response_mask.tolist(), batch.group_ids.tolist(), strict=True)):
            if group == own and any(mask) and not batch.scores[row].isnan() and not batch.truncated[row]:
                gaps.append(batch.values[row, mask.index(True)].item() - batch.scores[row].item())
        errors.append(abs(sum(gaps) / len(gaps)) if len(gaps) >= valid else NAN)
    return doubles(*errors)


# --- the functions --------------------------------------------------------------------------------------------------


@FEWER
@given(batches, st.integers(1, 3))
def test_the_error_of_a_prompt_is_that_of_its_value_against_the_mean_score(batch, valid):
    garbage = batch.values.masked_fill(~batch.response_mask, NAN)
    got = prompt_errors(garbage, batch.scores, batch.truncated, batch.group_ids, batch.response_mask, valid=valid)
    torch.testing.assert_close(got, reference(batch, valid), equal_nan=True)


@FEWER
@given(batches, st.integers(1, 3), st.floats(-5.0, 5.0))
def test_unscored_and_cut_responses_do_not_enter_an_error(batch, valid, other):
    def errors(scores, values):
        tensors = (batch.truncated, batch.group_ids, batch.response_mask)
        return prompt_errors(values, scores, *tensors, valid=valid)

    idle = batch.truncated | batch.scores.isnan()
    moved = torch.where(idle[:, None], batch.values + other, batch.values)
    scores = torch.where(batch.truncated, batch.scores + other, batch.scores)
    assert torch.equal(errors(scores, moved).nan_to_num(-1.0), errors(batch.scores, batch.values).nan_to_num(-1.0))
    counted = ~idle & batch.response_mask.any(-1)
    for row, group in enumerate(batch.group_ids):
        enough = int((counted & (batch.group_ids == group)).sum()) >= valid
        assert errors(batch.scores, batch.values)[row].isnan() != enough


def test_a_response_that_could_not_be_scored_leaves_the_error_to_the_others():
    batch = seen(value=0.75, scores=[1.0, NAN, 0.0, 1.0]).replace(truncated=torch.tensor([False, False, False, True]))
    ids = torch.zeros(4, dtype=torch.long)
    got = prompt_errors(batch.values, batch.scores, batch.truncated, ids, batch.response_mask)
    assert got.tolist() == [0.25] * 4


def test_both_bounds_are_strict_and_both_are_asked():
    errors = doubles(0.0, 0.125, 0.25, NAN)
    assert proved_prompts(errors, doubles(0.25, 0.75), step=0.75, prompt=0.25).tolist() == [True, True, False, False]
    assert not proved_prompts(errors, doubles(0.25, 0.75), step=0.5, prompt=0.25).any()
    assert not proved_prompts(errors, doubles(), step=torch.inf, prompt=torch.inf).any()
    assert proved_prompts(errors, doubles(9.0), step=torch.inf, prompt=torch.inf).tolist() == [True, True, True, False]
    assert not proved_prompts(errors, doubles(0.0), step=0.0).any()
    assert not proved_prompts(errors, doubles(0.0), prompt=0.0).any()
    assert proved_prompts(errors.bfloat16(), doubles(0.1999)).tolist() == [True, True, False, False]


def test_shapes_that_do_not_fit_are_one_line(unchecked_shapes):
    batch, three = seen(), torch.zeros(3)
    with pytest.raises(UsageError, match=r"^prompt_errors: group_ids has shape \(3,\), response_mask \(2, 3\); pass "):
        prompt_errors(batch.values, three, three.bool(), three.long(), batch.response_mask)


# --- which prompts are ready ----------------------------------------------------------------------------------------


def test_a_prompt_is_ready_when_it_and_the_last_batches_are_known_and_no_earlier():
    gate = source(window=2)
    assert believed(gate, 1, 2) == [False, False]
    gate.learn(seen(1), CONTEXT)  # an error of 0, in a window that is not full
    assert believed(gate, 1, 2) == [False, False]
    gate.learn(seen(2), CONTEXT)
    assert believed(gate, 1, 2, 3) == [False, True, False]  # 1 has not been measured since the window is full
    gate.learn(seen(1), CONTEXT)
    assert believed(gate, 1, 2, 3) == [True, True, False]


@pytest.mark.parametrize(
    ("errors", "ready"),
    [
        ([0.25, 0.0], True),  # mean 0.125
        ([0.5, 0.0], False),  # a mean of 0.25 is not below it
        ([0.0, 0.1875], False),  # nor is an error of 0.1875
        ([0.0, 0.125], True),
        ([1.0, 0.0, 0.0], True),  # the first has left the window
        ([0.0, 0.5, 0.125], False),  # mean 0.3125 over the last two
    ],
)
def test_the_mean_is_over_the_window(errors, ready):
    gate, (logged, context) = source(window=2, step=0.25, prompt=0.1875), logging()
    for error in errors:
        gate.learn(seen(value=0.5 + error), context)
    assert believed(gate, 1) == [ready]
    assert logged["readiness_error"] == [pytest.approx(sum(errors[-2:]) / 2)]


def test_the_mean_is_over_prompts_neither_over_batches_nor_over_responses():
    gate, (logged, context) = source(window=2), logging()
    three = torch.cat([torch.full((6, 3), 0.5), torch.full((2, 3), 0.75)]).double()
    gate.learn(batch_of([1, 1, 1, 1, 2, 2, 3, 3], [1.0, 0.0] * 4, values=three), context)  # errors 0, 0, 0.25
    gate.learn(seen(4, value=1.0), context)  # 0.5
    assert logged["readiness_error"] == [pytest.approx(0.75 / 4)]


def test_a_batch_that_measures_nothing_takes_its_place_in_the_window():
    gate, (logged, context) = source(window=2), logging()
    nothing = seen(2, scores=[1.0])  # one response measures no prompt
    gate.learn(seen(1), context)
    gate.learn(nothing, context)
    assert logged["readiness_error"] == [0.0]
    gate.learn(nothing, context)
    assert logged["readiness_error"] == []
    gate.learn(seen(1), context)
    assert believed(gate, 1, 2) == [True, False]


def test_each_prompt_is_judged_by_its_own_error():
    gate = source(window=1, step=torch.inf)
    values = torch.cat([torch.full((3, 3), 0.9), torch.full((2, 3), 0.5)]).double()
    gate.learn(batch_of([7, 9, 7, 3, 3], [1.0, 1.0, 0.0, 1.0, 0.0], values=values), CONTEXT)
    assert believed(gate, 3, 5, 7, 9) == [True, False, False, False]


def test_draws_of_one_prompt_in_a_batch_are_one_prompt():
    gate = source(window=1)
    gate.learn(seen(1, value=0.5), CONTEXT)  # two groups of one response each
    assert believed(gate, 1) == [True]


def test_replayed_responses_do_not_count():
    gate = source(window=1)
    gate.learn(seen(1, replayed=torch.tensor([True, False])), CONTEXT)
    assert believed(gate, 1) == [False]
    gate.learn(seen(1, replayed=torch.tensor([False, False])), CONTEXT)
    assert believed(gate, 1) == [True]


def test_the_score_holds_its_shaping():
    shaped = seen(1, value=0.25)
    shaped = shaped.replace(rewards=shaped.rewards - doubles(0.25, 0.0, 0.0))
    gate = source(window=1, prompt=0.01)
    gate.learn(shaped, CONTEXT)
    assert believed(gate, 1) == [True]


@FEWER
@given(st.lists(batches, min_size=1, max_size=6), st.integers(1, 2), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_once_ready_a_prompt_stays_ready_and_only_measured_ones_become_so(drawn, window, step, prompt):
    gate, ready, measured = source(window=window, step=step, prompt=prompt, valid=1), set(), set()
    for batch in drawn:
        now = batch.replace(group_ids=batch.prompt_uids)
        errors = reference(now.replace(scores=now.outcomes), 1)
        gate.learn(batch, CONTEXT)
        measured |= {uid for uid, error in zip(batch.prompt_uids.tolist(), errors, strict=True) if error < prompt}
        uids = sorted({uid for other in drawn for uid in other.prompt_uids.tolist()})
        after = {uid for uid, true in zip(uids, believed(gate, *uids), strict=True) if true}
        assert ready <= after <= measured
        ready = after


def test_what_was_ready_stays_so_whatever_comes():
    gate = source(window=1)
    gate.learn(seen(1), CONTEXT)
    gate.learn(seen(1, value=5.0), CONTEXT)
    gate.learn(seen(2, value=5.0), CONTEXT)
    assert believed(gate, 1, 2) == [True, False]


def test_the_critics_warm_up_counts():
    gate = source(window=1)
    gate.learn(seen(1), replace(CONTEXT, warming_up=True))
    assert believed(gate, 1) == [True]


# --- what the estimator gets ----------------------------------------------------------------------------------------


def judged(batch, truncation, critics, **options):
    composition = made_of(advantage=GAE(**options), truncation=truncation, critics=MiniCritics())
    return judge(batch, composition, NO_PASSES, critics, CONTEXT)


@FEWER
@given(batches, st.sampled_from([1.0, 0.9]), st.sampled_from([1.0, 0.7]))
def test_never_ready_is_terminal_and_all_ready_is_bootstrap(batch, gamma, lam):
    batch, options = whole(batch), {"gamma": gamma, "lam": lam}
    gate = source(ByPlace(), window=1, step=torch.inf, prompt=torch.inf, valid=1)
    never, ended = judged(batch, "bootstrap", gate, **options), judged(batch, "terminal", ByPlace(), **options)
    assert torch.equal(never.advantages, ended.advantages)
    assert torch.equal(never.returns, ended.returns)
    finished = batch.replace(truncated=torch.zeros_like(batch.truncated), values=ended.values)
    long = finished.replace(response_mask=torch.ones_like(batch.response_mask), replayed=None)
    gate.learn(long, CONTEXT)  # which measures every prompt
    every, gone_on = judged(batch, "bootstrap", gate, **options), judged(batch, "bootstrap", ByPlace(), **options)
    assert torch.equal(every.advantages, gone_on.advantages)
    assert torch.equal(every.returns, gone_on.returns)


@FEWER
@given(batches)
def test_a_response_goes_on_where_its_prompt_is_ready_and_ends_where_it_is_not(batch):
    batch = whole(batch)
    gate = source(ByPlace(), window=1, valid=1)
    gate.learn(gate.values(batch, CONTEXT), CONTEXT)
    ready = gate.believes(batch, CONTEXT)
    mixed, ended, gone_on = (
        judged(batch, truncation, critics)
        for truncation, critics in (("bootstrap", gate), ("terminal", ByPlace()), ("bootstrap", ByPlace()))
    )
    assert torch.equal(mixed.advantages, torch.where(ready[:, None], gone_on.advantages, ended.advantages))
    assert not mixed.end_values[~ready].any()


@FEWER
@given(batches, st.floats(-1.0, 2.0))
def test_rewards_of_a_batch_do_not_change_what_is_believed_in_it(batch, score):
    batch = whole(batch)
    gate = source(ByPlace(), window=1, step=2.0, prompt=0.5, valid=1)
    gate.learn(gate.values(batch.select(torch.arange(len(batch))[::2]), CONTEXT), CONTEXT)
    other = batch.replace(scores=torch.full_like(batch.scores, score), rewards=batch.rewards + score)
    assert torch.equal(gate.believes(other, CONTEXT), gate.believes(batch, CONTEXT))
    assert torch.equal(judged(other, "bootstrap", gate).end_values, judged(batch, "bootstrap", gate).end_values)


@FEWER
@given(batches)
def test_values_and_learning_are_those_of_the_critics(batch):
    gate = source(Said(batch))
    got = gate.values(batch.replace(values=None, critic_values=None), CONTEXT)
    assert torch.equal(got.values, batch.values)
    assert torch.equal(got.critic_values, batch.critic_values)
    gate.learn(got, CONTEXT)
    (learned,) = gate.inner.learned
    assert learned is got


def test_what_is_measured_was_said_before_the_critics_learned_from_it():
    gate = source(Said(step=9.0), window=1)
    gate.learn(seen(1), CONTEXT)
    assert gate.inner.moved == 9.0
    assert believed(gate, 1) == [True]


def test_the_values_of_cut_responses_are_only_computed_where_they_are_believed():
    class Counted(ByPlace):
        rows = 0

        def values(self, batch, context):
            self.rows += len(batch)
            return super().values(batch, context)

    gate = source(Counted(), window=1)
    judged(cuts(1, 2), "bootstrap", gate)
    assert gate.inner.rows == 2  # those of the batch itself
    gate.learn(seen(1), CONTEXT)
    judged(cuts(1, 2), "bootstrap", gate)
    assert gate.inner.rows == 2 + 2 + 1


def test_only_cut_responses_are_asked_about():
    class One(Said):
        def values(self, batch, context):
            return batch.replace(values=torch.ones_like(batch.rewards))

    gate, (logged, context) = source(One(), window=1), logging()
    gate.learn(seen(1), CONTEXT)
    three = cuts(2, 1, 2).replace(truncated=torch.tensor([False, True, True]))
    assert with_end_values(three, gate, context).end_values.tolist() == [0.0, 1.0, 0.0]
    assert logged["ready_share"] == [1.0, 0.0]
    logged.clear()
    with_end_values(three.replace(truncated=torch.zeros(3, dtype=torch.bool)), gate, context)
    assert not logged


def test_another_source_around_it_asks_it():
    gate = source(window=1)
    gate.learn(seen(1), CONTEXT)
    for outer in (PrivilegedSource(gate, Privileged()), TetherSource(gate, Tether())):
        assert believed(outer, 1, 2) == [True, False]
    assert believed(Said(), 1, 2) == [True, True]
    stricter = source(source(window=2), window=1)
    stricter.learn(seen(1), CONTEXT)
    assert believed(stricter, 1) == [False]
    stricter.learn(seen(1), CONTEXT)
    assert believed(stricter, 1) == [True]


# --- state, logs, refusals ------------------------------------------------------------------------------------------


@FEWER
@given(st.lists(batches, max_size=4), st.integers(1, 3), st.floats(0.1, 3.0), batches)
def test_a_resumed_gate_goes_on_as_if_nothing_had_happened(drawn, window, bound, following):
    options = {"window": window, "step": bound, "prompt": bound, "valid": 1}
    going, fresh = source(**options), source(**options)
    for batch in drawn:
        going.learn(batch, CONTEXT)
    fresh.load_state_dict(going.state_dict())
    uids = sorted({uid for batch in [*drawn, following] for uid in batch.prompt_uids.tolist()})
    for _ in range(2):
        assert believed(fresh, *uids) == believed(going, *uids)
        for name, tensor in going.get_extra_state().items():
            assert torch.equal(fresh.get_extra_state()[name], tensor), name
        for gate in (going, fresh):
            gate.learn(following, CONTEXT)


def test_a_state_that_was_saved_does_not_move():
    gate = source(window=1)
    state = gate.state_dict()
    gate.learn(seen(1), CONTEXT)
    gate.load_state_dict(state)
    assert believed(gate, 1) == [False]


def test_the_laws_of_value_sources_hold():
    check_value_source(Readiness(BetaTracker(samples=0), window=1, valid=1).build("", None), examples=20)


def test_it_logs_the_share_of_cut_responses_that_it_believes():
    gate, (logged, context) = source(window=1), logging()
    gate.learn(seen(1), context)
    gate.believes(cuts(1, 2, 1), context)
    assert logged == {"readiness_error": [0.0], "ready_share": [1.0, 0.0, 1.0]}


def test_a_prompt_needs_an_identity():
    gate = source()
    for asked in (lambda: gate.believes(cuts(1, -1), CONTEXT), lambda: gate.learn(seen(-1), CONTEXT)):
        with pytest.raises(UsageError, match=r"^Readiness needs prompt identities to tell prompts apart, [^\n]*$"):
            asked()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": -0.1}, r"Readiness: step must be in \[0, inf\], got -0\.1\."),
        ({"prompt": NAN}, r"Readiness: prompt must be in \[0, inf\], got nan\."),
        ({"window": 0}, r"Readiness: window must be a whole number of at least 1, got 0\."),
        ({"valid": 0}, r"Readiness: valid must be a whole number of at least 1, got 0\."),
    ],
)
def test_an_option_out_of_range_is_one_line(options, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        Readiness(**options)


def test_what_cannot_be_gated_is_one_line(tiny_policy, tiny_critic):
    good = Readiness(MiniCritics(tiny_critic))
    good.check(tiny_policy, 2)
    assert set(good.build(tiny_policy, None).learners) == {"critic_0", "critic_1"}
    with pytest.raises(UsageError, match=r"^Readiness: critics=TrunkCritic is trained with the policy's loss[^\n]*$"):
        Readiness(TrunkCritic()).check(tiny_policy, 4)
    with pytest.raises(UsageError, match=r"^Readiness: valid=3 responses measure a prompt, and [^\n]*=3 or more, or "):
        Readiness(SymmetricCritic(), valid=3).check(tiny_policy, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"truncation": "terminal"},
            r"critics=Readiness decides which values at cuts are used, but truncation=ter",
        ),
        ({"truncation": "drop"}, r"critics=Readiness decides which values [^\n]* set --model.truncation=bootstrap or "),
        ({"critics": Privileged(Readiness()), "truncation": "actor_only"}, r"critics=Privileged decides which values"),
        ({"critics": Tether(Readiness()), "truncation": "bootstrap"}, r"truncation=bootstrap needs the critics' value"),
        ({"critics": Readiness(Tether()), "truncation": "bootstrap"}, r"truncation=bootstrap needs the critics' value"),
        (
            {"truncation": "bootstrap", "learn_critics_first": True},
            r"learn_critics_first=true would show critics=Readiness the scores that",
        ),
    ],
)
def test_it_is_refused_where_it_would_do_nothing_or_see_the_scores(tiny_policy, tiny_critic, changes, message):
    slots = critic_slots(tiny_critic) | {"critics": Readiness(MiniCritics(tiny_critic))} | changes
    with pytest.raises(UsageError, match=rf"^{message}[^\n]*$"):
        compose(tiny_policy, **slots)


# --- the loop -------------------------------------------------------------------------------------------------------

TASK = AbsoluteDifference(digits=3, train_size=3, held_out_size=4, reward=even_length)  # each batch has every prompt


def fit(policy, critics, truncation, steps=3):
    slots = critic_slots("") | {"critics": critics, "truncation": truncation}
    module, watch = compose(policy, **slots), Watch()
    run(module, steps=steps, callbacks=[watch], data=PromptData(TASK, prompts_per_step=3))
    return module, watch.steps


def test_in_the_loop_it_goes_from_terminal_to_bootstrap(tiny_policy, tiny_critic):
    critics = MiniCritics(tiny_critic)
    gate = Readiness(critics, window=1, step=torch.inf, prompt=torch.inf, valid=1)
    module, steps = fit(tiny_policy, gate, "bootstrap")
    assert steps[0]["critics/ready_share"] == 0
    assert steps[-1]["critics/ready_share"] > 0
    assert all(0 < step["critics/readiness_error"] < 2 for step in steps)
    assert len(module.critics.get_extra_state()["ready"])


def test_in_the_loop_a_gate_that_never_opens_trains_as_terminal(tiny_policy, tiny_critic):
    critics = MiniCritics(tiny_critic)
    shut, _ = fit(tiny_policy, Readiness(critics, step=0.0), "bootstrap")
    ended, _ = fit(tiny_policy, critics, "terminal")
    gone_on, _ = fit(tiny_policy, critics, "bootstrap")
    assert torch.equal(weights(shut), weights(ended))
    assert not torch.equal(weights(gone_on), weights(ended))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": 0}, "valid must be a whole number of at least 1, got 0"),
        ({"truncated": torch.zeros(2)}, "truncated must be a bool tensor"),
        ({"scores": torch.zeros(3)}, r"scores has shape \(3,\), group_ids \(2,\)"),
        ({"truncated": torch.zeros(3, dtype=torch.bool)}, r"truncated has shape \(3,\), group_ids \(2,\)"),
        ({"values": torch.zeros(2, 1)}, r"values has shape \(2, 1\), response_mask \(2, 3\)"),
        ({"response_mask": torch.ones(1, 3, dtype=torch.bool), "values": torch.zeros(1, 3)}, "group_ids has shape"),
    ],
)
def test_what_an_error_is_made_of_is_checked(unchecked_shapes, changes, message):
    given_ = {
        "values": torch.zeros(2, 3),
        "scores": torch.zeros(2),
        "truncated": torch.zeros(2, dtype=torch.bool),
        "group_ids": torch.zeros(2, dtype=torch.long),
        "response_mask": torch.ones(2, 3, dtype=torch.bool),
    }
    with pytest.raises(UsageError, match=rf"^prompt_errors: {message}"):
        prompt_errors(**(given_ | changes))


def test_an_error_is_as_precise_as_the_wider_of_its_two_numbers():
    values, scores = torch.full((2, 1), 0.1), doubles(0.1, 0.1)
    mask, finished = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    found = prompt_errors(values, scores, finished, finished.long(), mask)
    assert found.dtype == torch.float64
    assert found[0].item() == pytest.approx(1.490116e-9, rel=1e-5)


def test_the_window_of_an_unused_gate_is_empty_and_exact():
    state = source().get_extra_state()
    assert all(x.numel() == 0 for x in state.values())
    assert {x.dtype for x in state.values()} <= {torch.float64, torch.long}
