"""DPPO with binary divergences, and its anchors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.objectives import DPPO, binary_kl, binary_tv, divergence_mask, dppo, ppo_clip
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved

any_kind = st.sampled_from(["tv", "kl"])


def coefficient(objective, new, old, advantages, mask):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    objective(new, old, advantages, mask).sum().backward()
    return -new.grad


@st.composite
def sequences(draw):
    mask = draw(masks())
    old = draw(tensors(tuple(mask.shape), -4.0, -0.1))
    return moved(old, 0.5 * draw(tensors(tuple(mask.shape), -1.0, 1.0))), old, draw(tensors(tuple(mask.shape))), mask


@given(sequences(), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_fewer_tokens_are_dropped_at_a_larger_threshold(drawn, first, second):
    small, large = sorted((first, second))
    _, _, advantages, mask = drawn
    signal = mask & (advantages != 0)
    for divergence in ("tv", "kl"):
        kept = [
            coefficient(lambda *t, d=d, v=divergence: dppo(*t, divergence=v, delta_low=d, delta_high=d), *drawn) != 0
            for d in (small, large)
        ]
        assert (kept[1] | ~kept[0])[signal].all()


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_binary_divergences_bound_those_of_the_vocabulary_from_below(vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, vocabulary, generator=generator, dtype=torch.float64).log_softmax(-1)
    full_tv = (p.exp() - q.exp()).abs().sum() / 2
    full_kl = (q.exp() * (q - p)).sum()
    assert (binary_tv(p, q) <= full_tv + 1e-12).all()
    assert (binary_kl(p, q) <= full_kl + 1e-12).all()
    assert (binary_kl(p, q) >= -1e-12).all()
    torch.testing.assert_close(binary_tv(p, q), binary_tv(q, p))


def test_binary_kl_is_finite_where_a_probability_rounds_to_one():
    near = torch.tensor([-1e-9, 0.0, -1e-9, -50.0])
    far = torch.tensor([-50.0, -1e-9, 0.0, 0.0])
    assert binary_kl(near, far).isfinite().all()
    assert not binary_kl(near, near).any()


@given(sequences(), st.floats(0.0, 1.0), st.floats(0.0, 2.0))
def test_with_the_distance_of_the_ratio_it_is_ppo(drawn, low, high):
    new, old, advantages, mask = drawn
    log_ratios = new - old
    ratios = log_ratios.exp()
    kept = divergence_mask(log_ratios, (ratios - 1).abs(), advantages, delta_low=low, delta_high=high)
    ppo = coefficient(lambda *t: ppo_clip(*t, clip_low=low, clip_high=high), new, old, advantages, mask)
    torch.testing.assert_close(torch.where(kept & mask, advantages * ratios, 0.0), ppo, rtol=1e-10, atol=1e-12)


@given(sequences(), any_kind)
def test_the_mask_may_be_anchored_at_the_start_of_the_update(drawn, kind):
    new, rollout, advantages, mask = drawn
    old = rollout.flip(0).roll(1, -1)
    got = coefficient(
        lambda *t: dppo(*t, divergence=kind, anchor="old", old_log_probs=old), new, rollout, advantages, mask
    )
    anchored = coefficient(lambda *t: dppo(*t, divergence=kind), new, old, advantages, mask)
    weights = torch.where(anchored != 0, (new - rollout).exp() * advantages, 0.0)
    torch.testing.assert_close(got, weights, rtol=1e-10, atol=1e-12)
    same = coefficient(
        lambda *t: dppo(*t, divergence=kind, anchor="old", old_log_probs=rollout), new, rollout, advantages, mask
    )
    assert torch.equal(same, coefficient(lambda *t: dppo(*t, divergence=kind), new, rollout, advantages, mask))


@given(rollouts())
def test_a_component_reads_the_other_anchor_from_the_batch(batch):
    got = DPPO(anchor="old", delta_low=0.01, delta_high=0.01)(PolicyOutput(batch.ref_log_probs), batch)
    expected = dppo(
        batch.ref_log_probs,
        batch.rollout_log_probs,
        batch.advantages,
        batch.response_mask,
        delta_low=0.01,
        delta_high=0.01,
        anchor="old",
        old_log_probs=batch.old_log_probs,
    )
    assert torch.equal(got, expected)
