"""ERC: tokens whose entropy left the band keep their loss and lose their gradient."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import DPPO, GSPO, EntropyRatioClip, ImportanceWeighted, PPOClip, Reinforce, entropy_ratio_mask
from rl4llm.testing.reference.objectives import loop_entropy_ratio_mask
from rl4llm.testing.strategies import rollouts, tensors

BASES = [ImportanceWeighted(), PPOClip(clip_high=0.28), DPPO("topk_tv")]
WIDTHS = st.tuples(st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from([0.05, 0.3, math.inf]))


@st.composite
def cases(draw):
    """A batch and entropies near those at rollout time."""
    batch = draw(rollouts())
    return batch, (batch.entropies * (1 + 0.4 * draw(tensors(tuple(batch.response_mask.shape), -1.0, 1.0)))).abs()


def loss_and_gradient(objective, batch, entropies):
    log_probs = batch.ref_log_probs.clone().requires_grad_()
    entropies = entropies.clone().requires_grad_()
    policy = PolicyOutput(log_probs, entropies=entropies, top_log_probs=batch.top_log_probs - 0.1)
    loss = objective(policy, batch)
    loss.sum().backward()
    assert entropies.grad is None
    return loss.detach(), log_probs.grad


@given(cases(), st.sampled_from(BASES), WIDTHS)
def test_the_gradient_is_that_of_the_base_inside_the_band_and_zero_outside(drawn, base, widths):
    batch, entropies = drawn
    low, high = widths
    wrapped = EntropyRatioClip(base, clip_low=low, clip_high=high)
    loss, gradient = loss_and_gradient(wrapped, batch, entropies)
    base_loss, base_gradient = loss_and_gradient(base, batch, entropies)
    assert torch.equal(loss, base_loss)
    inside = loop_entropy_ratio_mask(entropies, batch.entropies, batch.response_mask, clip_low=low, clip_high=high)
    assert torch.equal(gradient, base_gradient * inside)


@given(cases(), WIDTHS)
def test_the_mask_equals_the_reference_loop(drawn, widths):
    batch, entropies = drawn
    options = dict(zip(("clip_low", "clip_high"), widths, strict=True))
    arguments = entropies, batch.entropies, batch.response_mask
    got = entropy_ratio_mask(*arguments, **options)
    assert torch.equal(got, loop_entropy_ratio_mask(*arguments, **options).bool())
    assert not (got & ~batch.response_mask).any()


@given(cases(), st.sampled_from(BASES))
def test_an_endless_band_is_the_base_and_on_policy_nothing_is_masked(drawn, base):
    batch, entropies = drawn
    endless = EntropyRatioClip(base, clip_low=1.0, clip_high=math.inf)
    assert torch.equal(*(loss_and_gradient(o, batch, entropies)[1] for o in (endless, base)))
    narrow = EntropyRatioClip(base, clip_low=1e-6, clip_high=1e-6)
    assert torch.equal(*(loss_and_gradient(o, batch, batch.entropies)[1] for o in (narrow, base)))


def test_the_band_is_open_and_vanishing_entropies_are_compared():
    # (1e-8 + 1e-8) / 1e-8 = 2 and its inverse, exactly on the bounds 1 + 1 and 1 − 0.5; 0 / 0 counts as unchanged.
    new, old = torch.tensor([[[1e-8, 0.0, 0.0]], [[0.0, 1e-8, 0.0]]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert entropy_ratio_mask(new, old, mask, clip_low=0.5, clip_high=1.0).tolist() == [[False, False, True]]
    assert entropy_ratio_mask(new, old, mask, clip_low=0.51, clip_high=1.01).all()


@given(cases(), st.sampled_from([torch.nan, torch.inf, -1.0]))
def test_entropies_are_read_at_trained_positions_only(drawn, garbage):
    batch, entropies = drawn
    mask = batch.response_mask
    dirty = [x.masked_fill(~mask, garbage) for x in (entropies, batch.entropies)]
    assert torch.equal(entropy_ratio_mask(*dirty, mask), entropy_ratio_mask(entropies, batch.entropies, mask))


def test_the_ratio_is_formed_in_float32():
    new, old = torch.full((1, 1), 1.0078125, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16)
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert entropy_ratio_mask(new, old, mask, clip_high=0.008).all()
    assert not entropy_ratio_mask(new, old, mask, clip_high=0.0077).any()


def test_needs_and_asks_are_those_of_the_base_and_the_entropies():
    assert EntropyRatioClip(Reinforce()).reads == ("advantages", "entropies")
    assert EntropyRatioClip(Reinforce()).asks == ("entropies",)
    wrapped = EntropyRatioClip(DPPO("topk_kl"))
    assert wrapped.reads == ("advantages", "top_ids", "top_log_probs", "entropies")
    assert wrapped.asks == ("top_log_probs", "entropies")
    assert wrapped.level == "token"
    assert not wrapped.whole_groups
    assert eval(repr(wrapped)) == pickle.loads(pickle.dumps(wrapped)) == wrapped
    assert hash(wrapped) == hash(pickle.loads(pickle.dumps(wrapped)))


def test_a_base_that_needs_whole_groups_is_said():
    class Whole(Reinforce):
        whole_groups = True

    assert EntropyRatioClip(Whole()).whole_groups


@given(rollouts())
def test_what_is_missing_is_named(batch):
    with pytest.raises(UsageError, match=r"EntropyRatioClip needs policy.entropies, got None; call token_log_probs"):
        EntropyRatioClip(PPOClip())(PolicyOutput(batch.old_log_probs), batch)
    policy = PolicyOutput(batch.old_log_probs, entropies=batch.entropies)
    with pytest.raises(UsageError, match="EntropyRatioClip needs entropies, which this batch does not hold"):
        EntropyRatioClip(PPOClip())(policy, batch.replace(entropies=None))
    with pytest.raises(UsageError, match="PPOClip needs advantages"):
        EntropyRatioClip(PPOClip())(policy, batch.replace(advantages=None))


def test_wrong_options_are_one_line(unchecked_shapes):
    remedy = "wrap a token-level objective, for example PPOClip"
    with pytest.raises(UsageError, match=f"base must have one loss per token, GSPO has one per response; {remedy}"):
        EntropyRatioClip(GSPO())
    for wrong in ({"clip_low": 0.0}, {"clip_low": 1.1}, {"clip_high": 0.0}, {"clip_high": math.nan}):
        (name,) = wrong
        with pytest.raises(UsageError, match=rf"EntropyRatioClip: {name} must be in \(0,"):
            EntropyRatioClip(PPOClip(), **wrong)
        with pytest.raises(UsageError, match=rf"entropy_ratio_mask: {name} must be in \(0,"):
            entropy_ratio_mask(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), **wrong)
    with pytest.raises(UsageError, match=r"entropy_ratio_mask: old_entropies has shape \(1,\), response_mask \(1, 1\)"):
        entropy_ratio_mask(torch.ones(1, 1), torch.ones(1), torch.ones(1, 1, dtype=torch.bool))
