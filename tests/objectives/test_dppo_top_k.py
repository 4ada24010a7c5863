"""DPPO over the likeliest tokens."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import (
    DPPO,
    binary_kl,
    binary_tv,
    dppo,
    importance_weighted,
    mass_kl,
    mass_tv,
    reinforce,
    top_masses,
)
from rl4llm.testing.reference.objectives import loop_top_divergence
from rl4llm.testing.strategies import masks, rollouts, tensors

V = 6
BINARY = {"tv": binary_tv, "kl": binary_kl}
TOP = {"tv": mass_tv, "kl": mass_kl}
any_kind = st.sampled_from(["tv", "kl"])


def coefficient(objective, new, old, advantages, mask):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    objective(new, old, advantages, mask).sum().backward()
    return -new.grad


@st.composite
def vocabularies(draw):
    """Two distributions over V tokens at each position, sampled tokens, advantages and mask."""
    mask = draw(masks(max_batch=3, max_time=4))
    shape = (*mask.shape, V)
    old = draw(tensors(shape))
    new = (old + draw(tensors(shape, -1.0, 1.0))).log_softmax(-1)
    ids = ((draw(tensors(tuple(mask.shape), 0.0, 1.0)) * V).long()).clamp(max=V - 1)
    return new, old.log_softmax(-1), ids, draw(tensors(tuple(mask.shape))), mask


def of(log_probs, ids):
    return log_probs.gather(-1, ids[..., None])[..., 0]


def lists(new, old, ids, k):
    """What dppo is given for the K likeliest tokens under μ."""
    top_ids = old.topk(k, -1).indices
    return {
        "top_log_probs": new.gather(-1, top_ids),
        "rollout_top_log_probs": old.gather(-1, top_ids),
        "top_ids": top_ids,
        "response_ids": ids,
    }


def divergence(kind, new, old, ids, k):
    given_lists = lists(new, old, ids, k)
    tops = given_lists["top_log_probs"], given_lists["rollout_top_log_probs"]
    masses = [top_masses(of(x, ids), top, ids, given_lists["top_ids"]) for x, top in zip((new, old), tops, strict=True)]
    return TOP[kind](*masses)


def full(kind, new, old):
    if kind == "tv":
        return (new.exp() - old.exp()).abs().sum(-1) / 2
    return (old.exp() * (old - new)).sum(-1)


@given(any_kind, vocabularies())
def test_divergences_grow_with_the_list_up_to_that_of_the_vocabulary(kind, drawn):
    new, old, ids, _, _ = drawn
    chain = [BINARY[kind](of(new, ids), of(old, ids))]
    chain += [divergence(kind, new, old, ids, k) for k in range(1, V + 1)]
    for smaller, larger in zip(chain, [*chain[1:], full(kind, new, old)], strict=True):
        assert (smaller <= larger + 1e-11).all()
    torch.testing.assert_close(chain[-1], full(kind, new, old), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(chain[-2], full(kind, new, old), rtol=1e-9, atol=1e-10)  # the rest is the last token


@given(any_kind, vocabularies(), st.integers(1, V))
def test_divergences_equal_the_reference_loop(kind, drawn, k):
    new, old, ids, _, _ = drawn
    got = divergence(kind, new, old, ids, k)
    listed = old.topk(k, -1).indices
    for row in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            p, q = (dict(enumerate(x[row, t].exp().tolist())) for x in (new, old))
            expected = loop_top_divergence(p, q, int(ids[row, t]), listed[row, t].tolist(), divergence=f"topk_{kind}")
            assert got[row, t].item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(any_kind, vocabularies(), st.integers(1, V), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_the_gradient_is_the_closed_form(kind, drawn, k, low, high):
    new, old, ids, advantages, mask = drawn
    options = {"divergence": f"topk_{kind}", "delta_low": low, "delta_high": high, "weight_cap": 1.4}
    got = coefficient(
        lambda *t: dppo(*t, **options, **lists(new, old, ids, k)), of(new, ids), of(old, ids), advantages, mask
    )
    listed = old.topk(k, -1).indices
    for row, t in mask.nonzero().tolist():
        p, q = (dict(enumerate(x[row, t].exp().tolist())) for x in (new, old))
        token, a = int(ids[row, t]), advantages[row, t].item()
        distance = loop_top_divergence(p, q, token, listed[row, t].tolist(), divergence=f"topk_{kind}")
        if min(abs(distance - low), abs(distance - high)) < 1e-9:
            continue
        ratio = p[token] / q[token]
        dropped = (a > 0 and ratio > 1 and distance > high) or (a < 0 and ratio < 1 and distance > low)
        assert got[row, t].item() == pytest.approx(0.0 if dropped else a * min(ratio, 1.4), rel=1e-10, abs=1e-12)
    assert not got[~mask].any()


@given(any_kind, vocabularies(), st.floats(0.0, 0.3))
def test_dropped_sets_are_nested(kind, drawn, delta):
    new, old, ids, advantages, mask = drawn
    arguments = of(new, ids), of(old, ids), advantages, mask
    sizes = {"delta_low": delta, "delta_high": delta}
    kept = [coefficient(lambda *t: dppo(*t, divergence=kind, **sizes), *arguments) != 0]
    for k in (1, 3, V):
        named = lists(new, old, ids, k)
        near = (divergence(kind, new, old, ids, k) - delta).abs() < 1e-9
        masked = coefficient(lambda *t, n=named: dppo(*t, divergence=f"topk_{kind}", **sizes, **n), *arguments)
        kept.append((masked != 0) & ~near)
    for more, fewer in itertools.pairwise(kept):
        assert (more | ~fewer).all()


@given(vocabularies(), st.integers(1, V))
def test_a_threshold_that_no_divergence_passes_is_plain_importance_weighting(drawn, k):
    new, old, ids, advantages, mask = drawn
    arguments, named = (of(new, ids), of(old, ids), advantages, mask), lists(new, old, ids, k)
    plain = coefficient(importance_weighted, *arguments)
    for options in (
        {"divergence": "topk_tv", "delta_low": 1.0, "delta_high": 1.0},
        {"divergence": "topk_kl", "delta_low": math.inf, "delta_high": math.inf},
    ):
        got = coefficient(lambda *t, o=options: dppo(*t, **o, **named), *arguments)
        torch.testing.assert_close(got, plain, rtol=1e-12, atol=0)


@given(any_kind, vocabularies(), st.integers(1, V))
def test_nothing_is_dropped_on_policy_and_no_token_that_moves_back(kind, drawn, k):
    new, old, ids, advantages, mask = drawn
    strict = {"divergence": f"topk_{kind}", "delta_low": 0.0, "delta_high": 0.0}
    same = of(old, ids), of(old, ids), advantages, mask
    got = coefficient(lambda *t: dppo(*t, **strict, **lists(old, old, ids, k)), *same)
    reference = coefficient(lambda new, _, *t: reinforce(new, *t), *same)
    torch.testing.assert_close(got, reference, rtol=1e-12, atol=0)
    back = torch.where(of(new, ids) > of(old, ids), -advantages.abs() - 0.1, advantages.abs() + 0.1)
    got = coefficient(lambda *t: dppo(*t, **strict, **lists(new, old, ids, k)), of(new, ids), of(old, ids), back, mask)
    assert (got[mask] != 0).all()


def test_known_divergences():
    # Sampled token 2 (μ .2, π .4) is not among the 2 likeliest (.5, .25 → .3, .25); the rest has .05 and .05.
    rollout, new = (torch.tensor([p], dtype=torch.float64).log() for p in ([0.5, 0.25], [0.3, 0.25]))
    ids, top_ids = torch.tensor([2]), torch.tensor([[0, 1]])
    p = top_masses(torch.tensor([0.4], dtype=torch.float64).log(), new, ids, top_ids)
    q = top_masses(torch.tensor([0.2], dtype=torch.float64).log(), rollout, ids, top_ids)
    torch.testing.assert_close(p, torch.tensor([[0.4, 0.3, 0.25, 0.05]], dtype=torch.float64))
    assert mass_tv(p, q).item() == pytest.approx(0.2)
    assert mass_kl(p, q).item() == pytest.approx(0.2 * math.log(0.5) + 0.5 * math.log(0.5 / 0.3))


def test_masses_are_float32_at_least_bounded_from_below_and_without_graph():
    half = torch.tensor([[-0.5]], dtype=torch.bfloat16, requires_grad=True)
    listed = torch.tensor([[[-0.6, -0.6]]], dtype=torch.bfloat16, requires_grad=True)
    masses = top_masses(half, listed, torch.tensor([[5]]), torch.tensor([[[1, 2]]]))
    assert masses.dtype == torch.float32
    assert masses[..., 0].item() == pytest.approx(math.exp(-0.5), rel=1e-6)
    assert not masses.requires_grad
    assert masses[..., -1].item() == pytest.approx(1e-12)  # the list claims more than 1
    gone = top_masses(half, torch.full_like(listed, -torch.inf), torch.tensor([[5]]), torch.tensor([[[1, 2]]]))
    assert (gone >= 1e-12).all()
    assert mass_kl(gone, masses).isfinite().all()


@given(vocabularies(), st.sampled_from([torch.nan, torch.inf, -torch.inf]), any_kind)
def test_lists_are_read_at_trained_positions_only_and_get_no_gradient(drawn, garbage, kind):
    new, old, ids, advantages, mask = drawn
    results = []
    for clean in (True, False):
        named = lists(new, old, ids, 2)
        for name in ("top_log_probs", "rollout_top_log_probs"):
            named[name] = named[name] if clean else named[name].masked_fill(~mask[..., None], garbage)
        named["top_log_probs"] = named["top_log_probs"].clone().requires_grad_()
        arguments = of(new, ids), of(old, ids), advantages, mask
        options = {"divergence": f"topk_{kind}", "delta_low": 0.05, "delta_high": 0.05}
        results.append(coefficient(lambda *t, n=named, o=options: dppo(*t, **o, **n), *arguments))
        assert named["top_log_probs"].grad is None
    assert torch.equal(*results)


@given(rollouts(), st.sampled_from(["topk_tv", "topk_kl"]))
def test_a_component_reads_the_lists_of_batch_and_policy(batch, name):
    mine = batch.top_log_probs - 0.3
    component = DPPO(name, delta_low=0.02, delta_high=0.03, weight_cap=1.1)
    got = component(PolicyOutput(batch.ref_log_probs, top_log_probs=mine), batch)
    expected = dppo(
        batch.ref_log_probs,
        batch.rollout_log_probs,
        batch.advantages,
        batch.response_mask,
        divergence=name,
        delta_low=0.02,
        delta_high=0.03,
        weight_cap=1.1,
        top_log_probs=mine,
        rollout_top_log_probs=batch.top_log_probs,
        top_ids=batch.top_ids,
        response_ids=batch.response_ids,
    )
    assert torch.equal(got, expected)


def test_only_the_lists_are_needed_beyond_advantages():
    assert DPPO().reads == DPPO("kl", anchor="old").reads == ("advantages",)
    assert DPPO().asks == ()
    for name in ("topk_tv", "topk_kl"):
        assert DPPO(name).reads == ("advantages", "top_ids", "top_log_probs")
        assert DPPO(name).asks == ("top_log_probs",)


@given(rollouts())
def test_missing_lists_are_named(batch):
    with pytest.raises(UsageError, match=r"DPPO needs top_ids.*rollout engine"):
        DPPO("topk_tv")(PolicyOutput(batch.old_log_probs), batch.replace(top_ids=None))
    with pytest.raises(UsageError, match=r"DPPO needs policy.top_log_probs, got None; call listed_log_probs"):
        DPPO("topk_tv")(PolicyOutput(batch.old_log_probs), batch)


def test_wrong_combinations_and_shapes_are_one_line(unchecked_shapes):
    with pytest.raises(UsageError, match="DPPO: anchor='old' goes with divergence='tv' or 'kl', got 'topk_kl'"):
        DPPO("topk_kl", anchor="old")
    with pytest.raises(UsageError, match="DPPO: anchor must be one of 'rollout', 'old', got 'ref'"):
        DPPO(anchor="ref")
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match="dppo: anchor='old' needs old_log_probs, got None"):
        dppo(x, x, x, mask, anchor="old")
    with pytest.raises(UsageError, match=r"dppo: old_log_probs has shape \(3,\), response_mask \(2, 3\)"):
        dppo(x, x, x, mask, anchor="old", old_log_probs=torch.zeros(3))
    right = {
        "top_log_probs": torch.zeros(2, 3, 4),
        "rollout_top_log_probs": torch.zeros(2, 3, 4),
        "top_ids": torch.zeros(2, 3, 4, dtype=torch.long),
        "response_ids": torch.zeros(2, 3, dtype=torch.long),
    }
    for name in right:
        with pytest.raises(UsageError, match=f"dppo: divergence='topk_tv' needs {name}, got None"):
            dppo(x, x, x, mask, divergence="topk_tv", **{**right, name: None})
    for name, wrong in (("response_ids", right["response_ids"][:1]), ("top_ids", right["top_ids"][..., :1])):
        with pytest.raises(UsageError, match=rf"dppo: {name} has shape"):
            dppo(x, x, x, mask, divergence="topk_tv", **{**right, name: wrong})
    flat = {name: tensor[0] if tensor.ndim == 3 else tensor for name, tensor in right.items()}
    with pytest.raises(UsageError, match=r"dppo: top_log_probs has shape \(3, 4\); expected 3 axes: batch time top"):
        dppo(x, x, x, mask, divergence="topk_tv", **flat)
    short = {name: tensor[:1] if tensor.ndim == 3 else tensor for name, tensor in right.items()}
    with pytest.raises(UsageError, match=r"dppo: top_log_probs has shape \(1, 3\), response_mask \(2, 3\)"):
        dppo(x, x, x, mask, divergence="topk_tv", **short)
