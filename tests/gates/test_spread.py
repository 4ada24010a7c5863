"""Gates by the spread of returns, and the critics that say it."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE
from rl4llm.algorithms.choices import Credit, Loss, Rollout
from rl4llm.algorithms.composition import Composition
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics import (
    BatchMean,
    BoundedHead,
    HistogramHead,
    LinearHead,
    MiniCritics,
    QuantileHead,
    SigmoidHead,
    SymmetricCritic,
    TrunkCritic,
    ValueContext,
    critic_mean,
    critic_std,
    hl_gauss_spread,
    hl_gauss_value,
    quantile_spread,
)
from rl4llm.gates import NarrowReturns, UndecidedStates, WideReturns, drop_smallest, narrow_returns, wide_returns
from rl4llm.objectives import PPOClip
from rl4llm.testing.strategies import rollouts
from tests.classic_bugs.test_loss import some_batch
from tests.models.test_models import a_batch

FEWER = settings(max_examples=settings.default.max_examples // 4)  # whole batches are slow to draw
SPREADING = [SigmoidHead(), HistogramHead(low=-1.0, high=3.0, bins=5, sigma=0.5), QuantileHead(count=4)]
each_spreading = pytest.mark.parametrize("head", SPREADING, ids=lambda head: type(head).__name__)


@FEWER
@given(batch=rollouts(), fraction=st.sampled_from([0.0, 0.2, 0.5]))
def test_one_drops_the_least_spread_tokens_and_the_other_the_most(batch, fraction):
    mask, spread = batch.response_mask, batch.return_spread
    wide = wide_returns(spread, mask, fraction=fraction)
    assert torch.equal(wide, drop_smallest(spread, mask, fraction))
    assert torch.equal(wide, WideReturns(fraction=fraction)(batch))
    narrow = narrow_returns(spread, mask, fraction=fraction)
    assert torch.equal(narrow, drop_smallest(-spread, mask, fraction))
    assert torch.equal(narrow, NarrowReturns(fraction=fraction)(batch))
    if fraction and spread[mask].unique().numel() == mask.sum() > 4:
        assert spread[mask & ~wide].amax() < spread[wide].amin()
        assert spread[mask & ~narrow].amin() > spread[narrow].amax()


@FEWER
@given(batch=rollouts())
def test_for_binary_scores_it_is_the_gate_of_undecided_states(batch):
    outputs = batch.values[..., None] + 1 / 3  # no two are z and −z, which are tied up to rounding
    head = SigmoidHead()
    judged = batch.replace(values=head.value(outputs), return_spread=head.spread(outputs))
    assert torch.equal(WideReturns(0.5)(judged), UndecidedStates(0.5)(judged))


# --- heads that say it ----------------------------------------------------------------------------------------------


def test_the_spread_of_a_head_is_the_deviation_of_its_distribution():
    outputs = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmoid, histogram, quantile = SPREADING
    chance = outputs[..., 0].sigmoid()
    torch.testing.assert_close(sigmoid.spread(outputs[..., :1]), (chance * (1 - chance)).sqrt(), rtol=0, atol=1e-12)
    shares, middles = outputs.softmax(-1), torch.tensor([-0.6, 0.2, 1.0, 1.8, 2.6], dtype=torch.float64)
    second = (shares * middles**2).sum(-1) - (shares * middles).sum(-1) ** 2
    torch.testing.assert_close(histogram.spread(outputs), second.sqrt(), rtol=0, atol=1e-7)
    assert torch.equal(histogram.spread(outputs), hl_gauss_spread(outputs, low=-1.0, high=3.0))
    torch.testing.assert_close(quantile.spread(outputs[..., :4]), quantile_spread(outputs[..., :4]))
    torch.testing.assert_close(quantile.spread(outputs[..., :4]), outputs[..., :4].std(-1, unbiased=False))


def test_a_far_logit_still_has_a_spread():
    z = torch.tensor([[[40.0], [-40.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        SigmoidHead().spread(z), torch.full((1, 2), math.exp(-20), dtype=z.dtype), rtol=1e-9, atol=0
    )


@each_spreading
def test_no_spread_has_a_gradient(head):
    outputs = torch.randn(2, 3, head.size, requires_grad=True)
    assert not head.spread(outputs).requires_grad
    assert head.spread(outputs.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_spread_of_a_histogram_is_computed_wide(dtype):
    logits = torch.randn(2, 3, 51, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = hl_gauss_spread(logits)
    assert found.dtype == dtype
    torch.testing.assert_close(found, hl_gauss_spread(logits.double()).to(dtype))
    equal = torch.full((1, 1, 51), 3.0, dtype=dtype)
    assert hl_gauss_value(equal).item() == pytest.approx(0.5, abs=1e-3)
    bins, width = 51, 1.2
    expected = width * ((1 - 1 / bins**2) / 12) ** 0.5  # of 51 equally likely middles
    assert hl_gauss_spread(equal).item() == pytest.approx(expected, rel=1e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("logits", "low", "message"),
    [
        (torch.zeros(1, 2), 0.0, r"^hl_gauss_spread: logits has"),
        (torch.zeros(1, 1, 1), 0.0, r"^hl_gauss_spread: logits has shape \(1, 1, 1\); a histogram needs at least 2"),
        (torch.zeros(1, 1, 2), 2.0, r"^hl_gauss_spread: low must be below high"),
    ],
)
def test_histograms_are_checked(unchecked_shapes, logits, low, message):
    with pytest.raises(UsageError, match=message):
        hl_gauss_spread(logits, low=low)


@pytest.mark.parametrize("head", [LinearHead(), BoundedHead()])
def test_a_head_of_one_value_says_none(head):
    assert not head.spreads
    with pytest.raises(UsageError, match=rf"^{type(head).__name__} predicts one value per state"):
        head.spread(torch.zeros(1, 1, 1))


# --- critics that hold them -----------------------------------------------------------------------------------------


def judged(critics, batch) -> RolloutBatch:
    def never(*_):
        raise AssertionError

    context = ValueContext(lambda f, rows: f(rows).detach(), never, never, never, never, never)
    return critics.values(batch, context)


@each_spreading
def test_an_ensemble_says_the_part_of_the_variance_that_is_not_disagreement(head, tiny_critic):
    critics, batch = MiniCritics(tiny_critic, size=3, head=head, head_scale=2.0).build(tiny_critic), a_batch()
    rows, mask = judged(critics, batch), batch.response_mask
    outputs = [critic.outputs(batch) for critic in critics.critics]
    values, spreads = (torch.stack([read(z) for z in outputs]).detach() for read in (head.value, head.spread))
    assert torch.equal(rows.critic_values, torch.where(mask, values, 0.0))
    assert torch.equal(rows.values, critic_mean(rows.critic_values))
    torch.testing.assert_close(rows.return_spread, torch.where(mask, spreads.square().mean(0).sqrt(), 0.0))
    second = (values**2 + spreads**2).mean(0) - values.mean(0) ** 2  # variance of the mixture
    total = rows.return_spread**2 + critic_std(rows.critic_values) ** 2
    torch.testing.assert_close(total[mask], second[mask], rtol=1e-4, atol=1e-5)


def test_only_heads_that_say_it_fill_the_field(tiny_critic):
    assert judged(MiniCritics(tiny_critic).build(tiny_critic), a_batch()).return_spread is None
    for head in SPREADING:
        for spec in (MiniCritics(tiny_critic, head=head), SymmetricCritic(head=head)):
            assert spec.spreads_returns
            assert BatchMean(spec).spreads_returns
    assert not MiniCritics().spreads_returns
    assert not BatchMean().spreads_returns


@pytest.mark.parametrize("critics", [MiniCritics(), SymmetricCritic(), BatchMean(), TrunkCritic()])
def test_a_gate_by_a_spread_that_nobody_says_is_refused(critics):
    composition = Composition(Rollout(), Credit(GAE(), critics), Loss(PPOClip(), gate=WideReturns()))
    with pytest.raises(UsageError, match=r"^gate=WideReturns reads the spread of the return, but critics="):
        composition.check()
    some = replace(composition, credit=Credit(GAE(), MiniCritics(head=QuantileHead())))
    some.check()


@pytest.mark.parametrize("kind", [WideReturns, NarrowReturns])
def test_of_equal_spreads_exactly_the_share_is_dropped_where_asked(kind, unchecked_shapes):
    batch = some_batch(0)
    batch = batch.replace(return_spread=torch.ones_like(batch.rewards))
    tokens = int(batch.response_mask.sum())
    assert torch.equal(kind(0.5)(batch), batch.response_mask)
    assert int(kind(0.5, exact=True)(batch).sum()) == tokens - tokens // 2
    with pytest.raises(UsageError, match=rf"^{kind.__name__}: fraction must be in \[0, 1\), got 1"):
        kind(fraction=1.0)


@pytest.mark.parametrize("gate", [wide_returns, narrow_returns])
def test_what_does_not_fit_names_the_gate(gate, unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=rf"^{gate.__name__}: return_spread has shape \(2, 1\), response_mask"):
        gate(torch.ones(2, 1), mask)
    with pytest.raises(UsageError, match=rf"^{gate.__name__}: fraction must be in"):
        gate(torch.ones(2, 3), mask, fraction=1.0)
    ties = torch.arange(6.0).reshape(2, 3)
    assert int(gate(torch.ones(2, 3), mask, fraction=0.5, ties=ties).sum()) == 3
    assert inspect.signature(gate).parameters["fraction"].default == 0.2
