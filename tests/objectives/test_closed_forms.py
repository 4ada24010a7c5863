"""Every objective's autograd gradient is the closed form of its paper, on a grid of ratios, advantages and bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.objectives import (
    CISPO,
    DPPO,
    SAPO,
    MinPrefixRatio,
    RatioVariance,
    SoLS,
    binary_kl,
    binary_tv,
    cispo,
    dppo,
    importance_weighted,
    min_prefix_ratio,
    ppo_clip,
    ratio_variance,
    sapo,
    sols,
    topr,
)
from rl4llm.testing.strategies import masks, tensors

PROBABILITIES = [1e-5, 1e-3, 0.05, 0.3, 0.45, 0.8, 0.99]
ADVANTAGES = [-2.0, -0.5, 0.0, 0.5, 3.0]


def coefficient(objective, new, old, advantages, mask=None):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    mask = torch.ones_like(new, dtype=torch.bool) if mask is None else mask
    objective(new, old, advantages, mask).sum().backward()
    return -new.grad


def on_grid(objective, closed_form):
    """Compare on every pair of probabilities and every advantage, one token a response."""
    for p in PROBABILITIES:
        for q in PROBABILITIES:
            for a in ADVANTAGES:
                new, old, advantage = (torch.tensor([[x]], dtype=torch.float64) for x in (math.log(p), math.log(q), a))
                expected = closed_form(p, q, p / q, a)
                assert coefficient(objective, new, old, advantage).item() == pytest.approx(
                    expected, rel=1e-10, abs=1e-12
                )


def clip(x, low, high):
    return min(max(x, low), high)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def kl(q, p):
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


@pytest.mark.parametrize(("low", "high"), [(1.0, 4.0), (0.2, 0.3), (0.0, 0.0)])
def test_cispo(low, high):
    on_grid(lambda *t: cispo(*t, clip_low=low, clip_high=high), lambda p, q, r, a: a * clip(r, 1 - low, 1 + high))


@pytest.mark.parametrize("cap", [None, 1.5, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.15, 0.15), (0.05, 0.3), (0.0, 2.0)])
@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo(divergence, low, high, cap):
    def closed_form(p, q, r, a):
        distance = abs(p - q) if divergence == "tv" else kl(q, p)
        dropped = (a > 0 and r > 1 and distance > high) or (a < 0 and r < 1 and distance > low)
        return 0.0 if dropped else a * min(r, math.inf if cap is None else cap)

    on_grid(lambda *t: dppo(*t, divergence=divergence, delta_low=low, delta_high=high, weight_cap=cap), closed_form)


@pytest.mark.parametrize(("positive", "negative"), [(1.0, 1.05), (2.0, 0.5)])
def test_sapo(positive, negative):
    def closed_form(p, q, r, a):
        s = sigmoid((positive if a > 0 else negative) * (r - 1))
        return 4 * s * (1 - s) * r * a

    on_grid(lambda *t: sapo(*t, tau_positive=positive, tau_negative=negative), closed_form)


@pytest.mark.parametrize("multiplier", [0.0, 0.04, 2.0])
def test_ratio_variance(multiplier):
    on_grid(lambda *t: ratio_variance(*t, multiplier=multiplier), lambda p, q, r, a: r * (a - 2 * multiplier * (r - 1)))


@pytest.mark.parametrize("width", [0.0, 0.2, 1.0])
def test_sols(width):
    on_grid(lambda *t: sols(*t, clip=width), lambda p, q, r, a: a * r if a > 0 or abs(r - 1) <= width else 0.0)


@pytest.mark.parametrize("whole", [True, False])
def test_topr(whole):
    on_grid(lambda *t: topr(*t, whole_response=whole), lambda p, q, r, a: a if a > 0 else a * min(r, 1.0))


def test_topr_weighs_a_bad_response_by_the_product_of_its_ratios():
    new, old = torch.tensor([[0.5, 0.2, 0.7]]).log(), torch.tensor([[0.8, 0.1, 0.1]]).log()
    mask = torch.tensor([[True, True, False]])
    bad = coefficient(topr, new, old, -torch.ones(1, 3), mask)
    torch.testing.assert_close(bad, torch.tensor([[-1.0, -1.0, 0.0]]))  # 0.625 * 2 = 1.25, capped at 1
    bad = coefficient(topr, old, new, -torch.ones(1, 3), mask)
    torch.testing.assert_close(bad, torch.tensor([[-0.8, -0.8, 0.0]]))


@st.composite
def sequences(draw):
    mask = draw(masks())
    old = draw(tensors(tuple(mask.shape), -4.0, -0.1))
    return old + 0.5 * draw(tensors(tuple(mask.shape), -1.0, 1.0)), old, draw(tensors(tuple(mask.shape))), mask


@given(sequences(), st.booleans())
def test_min_prefix_ratio_equals_its_definition_token_by_token(drawn, cap):
    new, old, advantages, mask = drawn
    got = coefficient(lambda *t: min_prefix_ratio(*t, clip_low=0.7, clip_high=0.5, cap_prefix_at_one=cap), *drawn)
    for row in range(len(mask)):
        seen = []
        for t in range(mask.shape[1]):
            expected = 0.0
            if mask[row, t]:
                ratio = math.exp(new[row, t] - old[row, t])
                prefix = min(seen) if seen else 1.0
                prefix = min(prefix, 1.0) if cap else prefix
                expected = clip(prefix * ratio, 0.3, 1.5) * advantages[row, t].item()
                seen.append(ratio)
            assert got[row, t].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(sequences())
def test_with_two_tokens_min_prefix_ratio_is_the_exact_prefix_product(drawn):
    new, old, advantages, mask = (x[:, :2] for x in drawn)
    wide = coefficient(lambda *t: min_prefix_ratio(*t, clip_high=math.inf), new, old, advantages, mask)
    products = torch.where(mask, new - old, 0.0).cumsum(-1).exp()
    torch.testing.assert_close(wide, torch.where(mask, products * advantages, 0.0), rtol=1e-10, atol=1e-12)


@given(sequences(), st.integers(0, 7))
def test_min_prefix_ratio_never_looks_ahead(drawn, t):
    new, old, advantages, mask = drawn
    later = torch.arange(mask.shape[1]) > t
    moved = torch.where(later, new - 1.0, new)
    before, after = (coefficient(min_prefix_ratio, x, old, advantages, mask) for x in (new, moved))
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])


@given(sequences())
def test_dppo_with_the_distance_of_the_ratio_would_be_ppo(drawn):
    """PPO's mask is DPPO's with D = |r − 1|: the two agree wherever both distances fall on one side of the bound."""
    new, old, _, mask = drawn
    ratio = (new - old).exp()
    ours = coefficient(lambda *t: dppo(*t, delta_low=0.2, delta_high=0.2), *drawn)
    theirs = coefficient(ppo_clip, *drawn)
    same = ((ratio - 1).abs() > 0.2) == ((new.exp() - old.exp()).abs() > 0.2)
    torch.testing.assert_close(ours[same & mask], theirs[same & mask], rtol=1e-10, atol=1e-12)


@given(sequences())
def test_wide_thresholds_are_plain_importance_weighting(drawn):
    plain = coefficient(importance_weighted, *drawn)
    for objective in (
        lambda *t: dppo(*t, delta_low=1.0, delta_high=1.0),
        lambda *t: dppo(*t, divergence="kl", delta_low=math.inf, delta_high=math.inf),
        lambda *t: cispo(*t, clip_high=math.inf),
        lambda *t: sols(*t, clip=math.inf),
        lambda *t: ratio_variance(*t, multiplier=0.0),
    ):
        torch.testing.assert_close(coefficient(objective, *drawn), plain, rtol=1e-10, atol=1e-12)


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


BAD = [
    (lambda: CISPO(clip_low=1.5), r"CISPO: clip_low must be in \[0, 1\], got 1.5"),
    (lambda: MinPrefixRatio(clip_high=-1.0), "MinPrefixRatio: clip_high must be in"),
    (lambda: DPPO("js"), "DPPO: divergence must be one of 'tv', 'kl', 'topk_tv', 'topk_kl', got 'js'"),
    (lambda: DPPO(delta_low=-0.1), "DPPO: delta_low must be in"),
    (lambda: DPPO(weight_cap=0.0), r"DPPO: weight_cap must be in \(0, inf\], got 0.0"),
    (lambda: SAPO(tau_positive=0.0), r"SAPO: tau_positive must be in \(0, inf\), got 0.0"),
    (lambda: RatioVariance(multiplier=-1.0), "RatioVariance: multiplier must be in"),
    (lambda: SoLS(clip=-0.1), "SoLS: clip must be in"),
]


@pytest.mark.parametrize(("build", "message"), BAD)
def test_options_outside_their_domain_are_one_line(unchecked_shapes, build, message):
    with pytest.raises(UsageError, match=message):
        build()
