"""Truncated responses: an end, a beginning that goes on with the critics' value, nothing, or nothing for the policy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, GroupRelative, LengthAdaptiveGAE, bootstrap_truncated
from rl4llm.algorithms import judge
from rl4llm.algorithms.truncation import with_end_values
from rl4llm.batch import AXES, SOURCES
from rl4llm.checks import UsageError
from rl4llm.critics import (
    BatchMean,
    GreedyValue,
    MiniCritics,
    Privileged,
    SymmetricCritic,
    Tether,
    ValueModel,
    ValueSource,
)
from rl4llm.gates import FinishedResponses
from rl4llm.regularizers import EntropyBonus
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.value_laws import stand_in
from tests.algorithms.helpers import loop, run, slots
from tests.algorithms.test_judge import NO_PASSES, made_of
from tests.classic_bugs.test_loss import some_batch

FEWER = settings(max_examples=settings.default.max_examples // 4)  # whole batches are slow to draw

batches = rollouts(max_batch=5, max_time=5)


class ByPlace(ValueSource):
    """V(sₜ) from the tokens before t alone, as a critic's, and every batch it learned from."""

    def __init__(self):
        super().__init__()
        self.learned = []

    def values(self, batch, context):
        before = torch.nn.functional.pad(batch.response_ids, (1, 0))[:, :-1].cumsum(-1)
        started = batch.prompt_ids.masked_fill(~batch.prompt_mask, 0).sum(-1, keepdim=True)
        values = ((before + started) % 7).to(batch.rewards) / 7
        return batch.replace(values=values.masked_fill(~batch.response_mask, 0.0))

    def learn(self, batch, context):
        self.learned.append(batch)


def whole(batch):
    """The batch without holes and with every id below a mask known, so that a response can be made longer."""
    mask = torch.arange(batch.response_mask.shape[1]) < batch.widths[:, None]
    scores = batch.scores.nan_to_num(0.0)
    return batch.replace(response_mask=mask, response_ids=batch.response_ids.abs() * mask, scores=scores)


def judged(batch, truncation, advantage=None, **changes):
    composition = made_of(advantage=advantage or GAE(), truncation=truncation, critics=MiniCritics(), **changes)
    return judge(batch, composition, NO_PASSES, ByPlace(), stand_in())


# --- the function ---------------------------------------------------------------------------------------------------


@FEWER
@given(batch=batches, gamma=st.floats(0.0, 1.0))
def test_the_value_at_the_cut_is_paid_at_the_last_trained_token(batch, gamma):
    ends = batch.scores.nan_to_num(0.5)
    got = bootstrap_truncated(batch.rewards, ends, batch.response_mask, gamma=gamma)
    for row, mask in enumerate(batch.response_mask.tolist()):
        trained = [t for t, kept in enumerate(mask) if kept]
        for t, kept in enumerate(mask):
            expected = batch.rewards[row, t].item() if kept else 0.0
            expected += gamma * ends[row].item() if trained and t == trained[-1] else 0.0
            assert got[row, t].item() == pytest.approx(expected, abs=1e-10)


def test_it_takes_one_value_a_response(unchecked_shapes):
    with pytest.raises(UsageError, match=r"end_values has shape \(3,\), response_mask \(2, 4\)"):
        bootstrap_truncated(torch.zeros(2, 4), torch.zeros(3), torch.ones(2, 4, dtype=torch.bool))


# --- the choice -----------------------------------------------------------------------------------------------------


@FEWER
@given(batch=batches, token=st.integers(0, 5))
def test_the_value_at_the_cut_is_that_of_the_next_state_whatever_token_follows(batch, token):
    batch = whole(batch)
    source = ByPlace()
    ends = with_end_values(batch, source, stand_in()).end_values
    for row in range(len(batch)):
        width = int(batch.widths[row])
        if not (batch.truncated[row] and width):
            assert ends[row] == 0
            continue
        one = batch.select(torch.tensor([row])).replace(**dict.fromkeys(SOURCES))
        ids = {"response_ids": token, "response_mask": True}
        tokens = {name: x[:, :width] for name, x in one.tensors().items() if "time" in AXES[name]}
        longer = one.replace(**{n: torch.nn.functional.pad(x, (0, 1), value=ids.get(n, 0)) for n, x in tokens.items()})
        torch.testing.assert_close(ends[row], source.values(longer, None).values[0, width])


@FEWER
@given(batch=batches, gamma=st.sampled_from([1.0, 0.9]), lam=st.sampled_from([1.0, 0.7, 0.0]))
def test_bootstrapped_advantages_go_on_beyond_the_cut(batch, gamma, lam):
    batch = whole(batch)
    ended, gone_on = (judged(batch, choice, GAE(gamma=gamma, lam=lam)) for choice in ("terminal", "bootstrap"))
    more = gone_on.advantages - ended.advantages
    for row, width in enumerate(batch.widths.tolist()):
        value = gone_on.end_values[row].item()
        for t in range(width):
            expected = gamma * (gamma * lam) ** (width - 1 - t) * value
            assert more[row, t].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(gone_on.rewards, batch.rewards), "the stored rewards stay as they were scored"


@FEWER
@given(batch=batches)
def test_dropped_responses_are_as_if_they_had_not_been_drawn(batch):
    batch = whole(batch)
    kept = judged(batch, "drop", GroupRelative())
    alone = judged(batch.select(~batch.truncated), "terminal", GroupRelative())
    assert not kept.response_mask[batch.truncated].any()
    assert torch.equal(kept.advantages[~batch.truncated], alone.advantages)
    assert not kept.gates[:, batch.truncated].any()
    assert not kept.counted[:, batch.truncated].any()


@FEWER
@given(batch=batches)
def test_the_actor_alone_forgets_them(batch):
    batch = whole(batch)
    regularizers = {"entropy": EntropyBonus()}
    spared, ended = (judged(batch, choice, regularizers=regularizers) for choice in ("actor_only", "terminal"))
    assert torch.equal(spared.response_mask, ended.response_mask)
    assert torch.equal(spared.returns, ended.returns)
    finished = ~batch.truncated[None, :, None]
    assert torch.equal(spared.gates, ended.gates & finished)
    assert torch.equal(spared.counted, ended.counted & finished)


@FEWER
@given(batch=batches)
def test_for_the_objective_it_is_the_gate_of_finished_responses(batch):
    batch = whole(batch)
    choice, gate = judged(batch, "actor_only"), judged(batch, "terminal", gate=FinishedResponses())
    assert torch.equal(choice.gates, gate.gates)
    assert torch.equal(choice.counted, gate.counted)


def test_a_critic_s_value_at_the_cut_is_that_of_the_whole_response(tiny_critic):
    critic = ValueModel.load(tiny_critic).double()

    class One(ValueSource):
        def values(self, batch, context):
            return batch.replace(values=critic(batch).detach())

        def learn(self, batch, context): ...

    batch = some_batch(3, rows=4, time=4)
    batch = batch.replace(truncated=torch.tensor([True, True, False, True]))
    ends = with_end_values(batch, One(), stand_in()).end_values
    for row, width in enumerate(batch.widths.tolist()):
        if not (width and batch.truncated[row]):
            assert ends[row] == 0
            continue
        ids = torch.cat([batch.prompt_ids[row], batch.response_ids[row, :width]])[None]
        hidden = critic.backbone(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        assert ends[row].item() == pytest.approx(critic.head(hidden).item(), abs=1e-9)


@pytest.mark.parametrize("choice", ["terminal", "bootstrap", "drop", "actor_only"])
def test_every_choice_trains(tiny_policy, tiny_critic, choice):
    module = loop(tiny_policy, critics=MiniCritics(tiny_critic), advantage=GAE(), truncation=choice)
    run(module, steps=2)
    assert module.policy_version > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"truncation=bootstrap needs the critics' value at the cut, but no critics provide one"),
        ({"critics": BatchMean(), "advantage": GAE()}, r"no critics provide one"),
        ({"critics": Tether(), "advantage": GAE(lam=1.0)}, r"no critics provide one"),
        ({"critics": Privileged(shuffled=True), "advantage": GAE()}, r"no critics provide one"),
        ({"critics": GreedyValue()}, r"no critics provide one; set --model.critics=MiniCritics"),
        (
            {"critics": SymmetricCritic(), "advantage": GroupRelative()},
            r"advantage=GroupRelative does not bootstrap from values; set --model.advantage=GAE",
        ),
    ],
)
def test_a_bootstrap_needs_values_and_who_goes_on_from_them(tiny_policy, changes, message):
    with pytest.raises(UsageError, match=message):
        loop(tiny_policy, **{**slots(), "truncation": "bootstrap", **changes})


def test_an_unknown_choice_is_one_line(tiny_policy, unchecked_shapes):
    with pytest.raises(UsageError, match=r"Credit: truncation must be one of .*actor_only.*, got 'forget'"):
        loop(tiny_policy, truncation="forget")


@FEWER
@given(batch=batches)
def test_the_length_adaptive_estimator_goes_on_beyond_the_cut_too(batch):
    batch = whole(batch)
    ended, gone_on = (judged(batch, choice, LengthAdaptiveGAE(alpha=0.4)) for choice in ("terminal", "bootstrap"))
    last = batch.response_mask & (torch.arange(batch.response_mask.shape[1]) == batch.widths[:, None] - 1)
    more = (gone_on.advantages - ended.advantages)[last]
    torch.testing.assert_close(more, gone_on.end_values[batch.widths > 0].to(more))
