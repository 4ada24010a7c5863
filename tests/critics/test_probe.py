"""The probe of the siblings' states: what a baseline may depend on, when it learns, what it reads and what is saved."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rl4llm.advantages import GAE
from rl4llm.algorithms import Updates, compose
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.critics import (
    CrossRolloutProbe,
    PolicyStates,
    RidgeFit,
    Tether,
    leave_one_out_mean,
    probe_features,
    ridge_fit,
    ridge_predict,
)
from rl4llm.models import Policy, TinyQwen3
from rl4llm.models.states import layer_index, policy_states
from rl4llm.testing import check_value_source
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in, states_of
from tests.algorithms.helpers import Watch, rollout, run, slots, some_prompts, weights
from tests.critics.helpers import NAN, batch_of, doubles

CONTEXT = stand_in()
FEWER = settings(max_examples=settings.default.max_examples // 3)
FEATURES = 2 * 2 + 3  # of the stand-in's states


def probe(fitted=True, **options):
    """A probe; if fitted, with weights that tell all of the stand-in's features apart."""
    source = CrossRolloutProbe(**{"low": -1e3, "high": 1e3, **options}).build("")
    if fitted:
        wave = torch.arange(1.0, FEATURES + 1, dtype=torch.float64).sin()
        source.fit = RidgeFit(wave.flip(0) / 3, wave.abs() + 0.5, wave, torch.tensor(0.4, dtype=torch.float64))
    return source


def features(batch, span=10):
    return probe_features(states_of(batch), batch.prompt_mask, batch.response_mask, span=span)


def pairs(scores, ids=None, groups=None, **fields):
    """Responses of three tokens, all different; two a prompt unless groups say otherwise."""
    count = len(scores)
    groups = torch.arange(count) // 2 if groups is None else torch.tensor(groups)
    ids = [[5 * row + column for column in range(3)] for row in range(count)] if ids is None else ids
    return batch_of(groups.tolist(), scores, ids=ids, **fields).replace(group_ids=groups)


def baselines(source, batch):
    """One number per response; every trained token must have it."""
    (values,) = source.values(batch, CONTEXT).require("values", by="test")
    first = torch.where(batch.response_mask.any(-1), values.sum(-1) / batch.lengths.clamp(min=1), 0.0)
    torch.testing.assert_close(values, torch.where(batch.response_mask, first[:, None], 0.0))
    return first


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


# --- what a baseline may depend on ----------------------------------------------------------------------------------


@FEWER
@given(rollouts(), st.booleans(), st.data())
def test_editing_a_response_leaves_its_own_baseline(batch, fitted, data):
    row = data.draw(st.integers(0, len(batch) - 1))
    ids, scores, rewards = batch.response_ids.clone(), batch.scores.clone(), batch.rewards.clone()
    ids[row] += 1
    scores[row], rewards[row] = 1.0 - scores[row], -rewards[row]
    edited = batch.replace(response_ids=ids, scores=scores, rewards=rewards, old_log_probs=batch.old_log_probs - 1)
    edited.old_log_probs[torch.arange(len(batch)) != row] += 1
    others = torch.arange(len(batch)) != row
    if not fitted and not (~batch.scores[others].isnan()).any():
        return  # the only scored response is its own mean
    source = probe(fitted)
    close(baselines(source, edited)[row], baselines(source, batch)[row])


def test_editing_a_response_moves_the_baseline_of_its_sibling():
    batch, source = pairs([1.0, 0.0, 1.0, 0.0]), probe()
    ids = batch.response_ids.clone()
    ids[0, 2] += 1
    moved = baselines(source, batch.replace(response_ids=ids)) - baselines(source, batch)
    assert (moved != 0).tolist() == [False, True, False, False]


@FEWER
@given(rollouts(), st.booleans(), st.data())
def test_relabelling_siblings_permutes_their_baselines(batch, fitted, data):
    i, j = (data.draw(st.integers(0, len(batch) - 1)) for _ in range(2))
    order = torch.arange(len(batch))
    order[i], order[j] = j, i
    source = probe(fitted)
    close(baselines(source, batch.select(order)), baselines(source, batch)[order])


@pytest.mark.parametrize("groups", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
def test_the_baseline_is_the_mean_prediction_of_the_siblings(groups):
    batch, source = pairs([1.0, 0.0, 1.0, NAN], groups=groups), probe()
    said = ridge_predict(source.fit, features(batch))
    for row, found in enumerate(baselines(source, batch)):
        siblings = [other for other in range(4) if other != row and groups[other] == groups[row]]
        expected = torch.stack([said[other] for other in siblings]).mean() if siblings else source.fit.intercept
        close(found, expected)


@FEWER
@given(rollouts())
def test_a_constant_probe_is_a_constant_baseline(batch):
    source = probe()
    source.fit = source.fit._replace(weights=torch.zeros(FEATURES, dtype=torch.float64))
    written = batch.lengths > 0
    close(baselines(source, batch)[written], torch.full((int(written.sum()),), 0.4, dtype=torch.float64))


@FEWER
@given(rollouts(), st.booleans())
def test_before_any_fit_it_is_the_mean_of_the_siblings_scores(batch, fitted):
    source, written = probe(False), batch.lengths > 0
    if fitted:  # judged by it before the probe takes over, however many batches were seen
        source = probe(False, bootstrap=3)
        source.learn(batch, CONTEXT)
        source.learn(batch, CONTEXT)
        assert source.fit is None
    close(baselines(source, batch)[written], leave_one_out_mean(batch.outcomes, batch.group_ids)[written])


def test_predictions_are_clipped_before_they_are_averaged():
    batch = pairs([1.0, 0.0, 1.0], groups=[0, 0, 0])
    source = probe(low=0.0, high=1.0)
    source.fit = source.fit._replace(weights=10 * source.fit.weights)
    said = ridge_predict(source.fit, features(batch))
    assert ((said < 0) | (said > 1)).any()
    kept = said.clamp(0, 1)
    close(baselines(source, batch), (kept.sum() - kept) / 2)


def test_a_response_without_siblings_has_the_mean_target_as_baseline():
    source = probe()
    alone = pairs([1.0], groups=[3])
    assert baselines(source, alone).tolist() == pytest.approx([0.4])
    empty = pairs([1.0, 0.0], mask=[[1, 1, 1], [0, 0, 0]])  # dropped by truncation: it counts nowhere
    assert baselines(source, empty).tolist() == pytest.approx([0.4, 0.0])


# --- when it learns, and from what ----------------------------------------------------------------------------------


@FEWER
@given(rollouts(), st.booleans())
def test_fitting_a_batch_leaves_its_own_advantages(batch, fitted):
    """They are those of the probe of earlier batches, and no tensor of the judged batch is changed."""
    source, never = probe(fitted), probe(fitted)
    judged = source.values(batch, CONTEXT)
    advantages = GAE(lam=1.0)(judged).advantages
    source.learn(judged, CONTEXT)
    assert torch.equal(GAE(lam=1.0)(judged).advantages, advantages)
    assert torch.equal(never.values(batch, CONTEXT).values, judged.values)


def test_it_learns_from_what_it_read_before_the_policy_stepped():
    batch, source = pairs([1.0, 0.0]), probe(False)
    stepped = replace(CONTEXT, states=lambda read, rows, layer: torch.zeros(len(rows), FEATURES, dtype=torch.float64))
    source.learn(source.values(batch, CONTEXT), stepped)
    close(source.window[0][0], features(batch))
    source.learn(pairs([1.0, 0.0]), stepped)  # another batch: nothing was read of it
    assert not source.window[1][0].any()


def test_the_target_of_a_response_is_the_mean_score_of_its_siblings():
    batch, source = pairs([1.0, 0.0, 0.5, NAN, 1.0, 0.0, 0.25], groups=[0, 0, 1, 1, 2, 2, 2]), probe(False)
    source.learn(batch, CONTEXT)
    ((phi, targets),) = source.window
    known = [0, 1, 3, 4, 5, 6]  # the sibling of row 2 has no score; row 3 has none itself, and a sibling that has
    close(targets, doubles(0, 1, 0.5, 0.125, 0.625, 0.5))
    close(phi, features(batch)[known])
    for got, expected in zip(source.fit, ridge_fit(phi, targets, ridge=0.01), strict=True):
        assert torch.equal(got, expected)


def test_shaped_outcomes_are_what_it_predicts():
    batch = pairs([1.0, 0.0])
    source = probe(False)
    source.learn(batch.replace(rewards=batch.rewards - doubles(0.1, 0.2)[:, None] / 3), CONTEXT)
    close(source.window[0][1], doubles(-0.2, 0.9))


def test_replayed_and_empty_responses_do_not_count():
    batch = pairs([1.0, 0.0, 1.0, 0.0], mask=[[1, 1, 1]] * 3 + [[0, 0, 0]])
    source = probe(False)
    source.learn(batch.replace(replayed=torch.tensor([True, False, False, False])), CONTEXT)
    assert [len(y) for _, y in source.window] == [0]
    assert source.fit is None
    source.learn(batch, CONTEXT)
    assert [y.tolist() for _, y in source.window] == [[], [0.0, 1.0]]


def test_nothing_scored_leaves_the_probe():
    source = probe()
    fit = source.fit
    source.learn(pairs([NAN, NAN]), CONTEXT)
    assert source.fit is fit


def test_the_window_holds_the_newest_batches():
    source, batches = probe(False, window=2), [pairs([s, 1.0 - s]) for s in (0.0, 0.25, 0.75)]
    for batch in batches:
        source.learn(batch, CONTEXT)
    assert [y.tolist() for _, y in source.window] == [[0.75, 0.25], [0.25, 0.75]]
    phi, y = torch.cat([features(b) for b in batches[1:]]), doubles(0.75, 0.25, 0.25, 0.75)
    assert torch.equal(source.fit.weights, ridge_fit(phi, y).weights)


def test_it_finds_what_the_states_tell():
    """Prompts with an even uid are solved; new ones are told apart by their last token."""
    uids = torch.arange(40).repeat_interleave(2)
    batch = batch_of(uids.tolist(), [float(uid % 2 == 0) for uid in uids], ids=[[1, 2, 3]] * 80)
    batch = batch.replace(group_ids=uids, prompt_ids=(uids % 2)[:, None].expand(-1, 2).clone())
    source = CrossRolloutProbe().build("")
    source.learn(batch.select(uids < 20), CONTEXT)
    new = batch.select(uids >= 20)
    torch.testing.assert_close(baselines(source, new), new.scores, rtol=0, atol=1e-3)


def test_errors_of_both_baselines_are_logged():
    logged = {}
    context = replace(CONTEXT, log=lambda name, numbers: logged.update({name: numbers.item()}))
    source = probe()
    source.fit = source.fit._replace(weights=torch.zeros(FEATURES, dtype=torch.float64))
    source.values(pairs([1.0, 0.0, 1.0, NAN]), context)
    assert logged == {
        "probe_error": pytest.approx((0.36 + 0.16 + 0.36) / 3),
        "siblings_error": pytest.approx((1.0 + 1.0 + 0.25) / 3),  # row 2: its sibling has no score, so the batch's
    }


# --- what it reads --------------------------------------------------------------------------------------------------


def test_features_by_hand():
    prompt = torch.tensor([[[9.0], [1.0], [3.0]]])
    response = torch.tensor([[[1.0], [100.0], [2.0], [4.0], [torch.nan]]])
    entropies = torch.tensor([[0.0, 50.0, 1.0, 2.0, torch.nan]])
    masks = torch.tensor([[False, True, True]]), torch.tensor([[True, False, True, True, False]])
    states = PolicyStates(prompt, response, entropies)
    deviation = (2 / 3) ** 0.5
    for span, ends in [(1, (3.0, 4.0)), (2, (2.0, 3.0)), (9, (2.0, 7 / 3))]:
        found = probe_features(states, *masks, span=span)
        assert found[0].tolist() == pytest.approx([*ends, 1.0, deviation, 2.0])
    nothing = probe_features(states, masks[0], torch.zeros_like(masks[1]))
    assert nothing.tolist() == [[2.0, 0.0, 0.0, 0.0, 0.0]]
    with pytest.raises(UsageError, match=r"^probe_features: span must be a whole number of at least 1, got 0"):
        probe_features(states, *masks, span=0)


SIZES = {"vocab_size": 15, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
MODELS = {
    "Qwen3": lambda: TinyQwen3(hidden_size=16, layers=3, heads=2, key_value_heads=1, head_size=8).build()[0],
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=16, num_key_value_heads=1)),
    "GPT2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=15, n_embd=16, n_layer=3, n_head=2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_the_bare_sequence(name):
    """At every token after it was read, whatever stands beside it as padding; entropies one token earlier."""
    torch.manual_seed(0)
    _, tokenizer = TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()
    policy = Policy(MODELS[name]().eval(), tokenizer)
    batch = batch_of([1, 2], [1.0, 0.0], ids=[[3, 4, 5], [6, 7, 0]], mask=[[1, 0, 1], [1, 1, 0]])
    left_padded = torch.tensor([[False, False, True], [True, True, True]])
    batch = batch.replace(prompt_ids=torch.tensor([[0, 0, 4], [2, 3, 5]]), prompt_mask=left_padded)
    with torch.no_grad():
        found = policy_states(policy, batch, layer=2, temperature=0.7)
        for row, ids in enumerate([[4, 3, 4, 5], [2, 3, 5, 6, 7]]):
            bare = policy.model(torch.tensor([ids]), output_hidden_states=True)
            prompt, length = int(batch.prompt_mask[row].sum()), len(ids)
            states = bare.hidden_states[2][0]
            close_enough = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(found.prompt[row][batch.prompt_mask[row]], states[:prompt], **close_enough)
            torch.testing.assert_close(found.response[row, : length - prompt], states[prompt:], **close_enough)
            dist = torch.distributions.Categorical(logits=bare.logits[0, prompt - 1 : -1].float() / 0.7)
            kept = batch.response_mask[row, : length - prompt]
            expected = torch.where(kept, dist.entropy(), 0.0)
            torch.testing.assert_close(found.entropies[row, : length - prompt], expected, **close_enough)
    assert not found.entropies[~batch.response_mask].any()


@pytest.mark.parametrize(
    ("layer", "index"), [(0, 0), (1, 1), (3, 3), (-1, 3), (-4, 0), (0.0, 0), (0.5, 2), (0.3, 1), (1.0, 3)]
)
def test_a_layer_is_counted_or_a_share(layer, index):
    assert layer_index("test", layer, 3) == index


@pytest.mark.parametrize("layer", [4, -5, 1.5, -0.5])
def test_no_such_layer_is_one_line(layer, tiny_policy):
    with pytest.raises(UsageError, match=rf"^test: layer={layer}, and the policy has 3 layers; [^\n]*$"):
        layer_index("test", layer, 3)
    with pytest.raises(UsageError, match=rf"^CrossRolloutProbe: layer={layer}, and the policy has 1 layers; "):
        CrossRolloutProbe(layer=layer).check(tiny_policy, 2)


# --- in the loop ----------------------------------------------------------------------------------------------------


def composed(policy, **changes):
    return compose(policy, **slots(critics=CrossRolloutProbe(span=3), advantage=GAE(lam=1.0)) | changes)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_the_loop_reads_the_same_features_however_the_batch_is_cut(tiny_policy, budget):
    module = composed(tiny_policy, critic_updates=Updates(microbatch_tokens=budget))
    batch = rollout(module)
    context = module.value_context(module.runtime(), some_prompts(), Meter())
    found = module.critics._features(batch, context)
    with torch.no_grad():
        states = policy_states(module.policy, batch, layer=0.5)
    expected = probe_features(states, batch.prompt_mask, batch.response_mask, span=3)
    assert found.shape == (len(batch), 2 * 32 + 3)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_first_batch_is_rloo_and_the_next_ones_are_judged_by_the_probe(tiny_policy):
    watch = Watch()
    module = composed(tiny_policy)
    run(module, steps=3, callbacks=[watch])
    errors = [(step["critics/probe_error"], step["critics/siblings_error"]) for step in watch.steps]
    assert errors[0][0] == errors[0][1]
    assert all(probed != siblings for probed, siblings in errors[1:])
    assert len(module.critics.window) == 3
    assert not list(module.critics.parameters())


def test_the_state_is_saved_to_the_last_digit():
    taught, fresh = probe(False, window=2), probe(False, window=2)
    for scores in ([1.0, 0.0, 0.5, 0.25], [NAN, NAN], [0.0, 1.0]):
        taught.learn(pairs(scores), CONTEXT)
    fresh.load_state_dict(taught.state_dict())
    for source in (taught, fresh):
        source.learn(pairs([0.25, 1.0]), CONTEXT)
    assert fresh.batches == taught.batches == 4
    assert [y.tolist() for _, y in fresh.window] == [y.tolist() for _, y in taught.window]
    assert all(torch.equal(x, y) for x, y in zip(fresh.fit, taught.fit, strict=True))
    fresh.load_state_dict(probe(False).state_dict())
    assert (fresh.fit, fresh.batches, len(fresh.window)) == (None, 0, 0)


def test_a_resumed_run_goes_on_exactly(tiny_policy, tmp_path):
    steady = {"updates": Updates(warmup_steps=0, schedule="constant_with_warmup")}
    whole, first, second = (composed(tiny_policy, **steady) for _ in range(3))
    run(whole, steps=4)
    run(first, steps=2).save_checkpoint(tmp_path / "two.ckpt")
    run(second, steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert torch.equal(weights(second), weights(whole))
    assert torch.equal(second.critics.fit.weights, whole.critics.fit.weights)


@pytest.mark.parametrize("fitted", [False, True])
def test_it_keeps_the_laws_of_value_sources(fitted):
    check_value_source(probe(fitted), examples=10)


def test_what_cannot_be_probed_is_one_line(tiny_policy):
    CrossRolloutProbe().check(tiny_policy, 2)
    with pytest.raises(UsageError, match=r"^CrossRolloutProbe: responses_per_prompt=1 leaves no other [^\n]*$"):
        CrossRolloutProbe().check(tiny_policy, 1)
    for options in (
        {"ridge": 0.0}, {"ridge": NAN}, {"span": 0}, {"window": 0}, {"bootstrap": 0}, {"low": 1.0}, {"layer": NAN},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"^CrossRolloutProbe: {next(iter(options))} must be "):
            CrossRolloutProbe(**options)
    with pytest.raises(UsageError, match=r"^learn_critics_first=true would show critics=CrossRolloutProbe the scores"):
        composed(tiny_policy, learn_critics_first=True)
    with pytest.raises(UsageError, match=r"^critic_warmup=2, but there are no critics that learn by gradient"):
        composed(tiny_policy, critic_warmup=2)


def test_it_can_be_tied_to_the_mean(tiny_policy):
    module = composed(tiny_policy, critics=Tether(CrossRolloutProbe(), decay=0.0))
    run(module, steps=3)
    assert module.critics.rhos.item() != 0.0


def test_whoever_lends_no_states_is_told_so():
    with pytest.raises(UsageError, match=r"^this value source reads the policy's hidden states, and [^\n]*$"):
        probe().values(pairs([1.0, 0.0]), replace(CONTEXT, states=type(CONTEXT).states))


# --- borders of the features ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "part"), [("prompt_mask", "prompt"), ("response_mask", "response")])
def test_a_mask_that_does_not_fit_the_states_is_named(unchecked_shapes, name, part):
    batch = pairs([1.0, 0.0])
    masks = {"prompt_mask": batch.prompt_mask, "response_mask": batch.response_mask}
    shape = tuple(getattr(states_of(batch), part).shape)
    with pytest.raises(
        UsageError, match=rf"^probe_features: {name} has shape \(1, \d\), the states {re.escape(str(shape))}"
    ):
        probe_features(states_of(batch), **{**masks, name: masks[name][:1]})
    with pytest.raises(UsageError, match=rf"^probe_features: {name} must be a bool tensor"):
        probe_features(states_of(batch), **{**masks, name: masks[name].long()})


def test_responses_without_columns_have_features_of_the_prompt_alone():
    batch = pairs([1.0, 0.0])
    none = batch.replace(**{n: x[:, :0] for n, x in batch.tensors().items() if x.shape == batch.response_ids.shape})
    found = features(none)
    assert found.shape == (2, FEATURES)
    torch.testing.assert_close(found[:, :2], features(batch)[:, :2])
    assert not found[:, 2:].any()


def test_a_response_of_one_token_counts():
    batch = pairs([1.0, 0.0], mask=[[True, False, False], [True, False, False]])
    source = probe(fitted=False)
    source.values(batch, CONTEXT)
    source.learn(batch, CONTEXT)
    assert source.fit is not None


def test_another_batch_than_it_judged_is_read_anew():
    batch, other = pairs([1.0, 0.0, 1.0, 0.0]), pairs([0.0, 1.0], ids=[[9, 8, 7], [6, 5, 4]])
    judged, fresh = probe(fitted=False), probe(fitted=False)
    judged.values(batch, CONTEXT)
    for source in (judged, fresh):
        source.learn(other, CONTEXT)
    for one, two in zip(judged.fit, fresh.fit, strict=True):
        assert torch.equal(one, two)


def test_fresh_responses_beside_replayed_ones_count_from_one_token_on():
    batch = pairs([1.0, 0.0, 1.0, 0.0], mask=[[True, False, False]] * 4)
    source = probe(fitted=False, ridge=5.0)
    source.learn(batch.replace(replayed=torch.tensor([True, True, False, False])), CONTEXT)
    ((phi, y),) = source.window
    assert y.tolist() == [0.0, 1.0]
    assert torch.equal(source.fit.weights, ridge_fit(phi, y, ridge=5.0).weights)
    assert not torch.equal(source.fit.weights, ridge_fit(phi, y).weights)


def test_one_token_is_enough_to_be_read():
    batch, source = pairs([1.0, 0.0], mask=[[True, False, False]] * 2), probe()
    found, phi = baselines(source, batch), features(batch)
    torch.testing.assert_close(found, ridge_predict(source.fit, phi).flip(0))


@pytest.mark.parametrize(("bounds", "expected"), [((0.6, 9.0), 0.6), ((-9.0, 0.3), 0.3), ((-9.0, 9.0), 0.4)])
def test_the_mean_target_is_kept_between_the_bounds_too(bounds, expected):
    """A prompt of one response has no sibling; the intercept of the fit is 0.4."""
    low, high = bounds
    batch = pairs([1.0, 0.0, 1.0], groups=[0, 0, 1])
    assert baselines(probe(low=low, high=high), batch)[2].item() == pytest.approx(expected)


def test_the_state_of_an_unused_probe_is_empty():
    state = probe(fitted=False).get_extra_state()
    assert state["features"].numel() == state["targets"].numel() == 0
    other = probe(fitted=False)
    other.set_extra_state(state)
    assert len(other.window) == 0
    assert other.fit is None
