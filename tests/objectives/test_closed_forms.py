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
    cispo,
    dppo,
    gspo_token,
    importance_weighted,
    ppo_clip,
    ratio_variance,
    reinforce,
    sapo,
    sols,
    topr,
)
from rl4llm.testing.strategies import masks, tensors
from tests.log_probs import moved

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


def test_reinforce():
    on_grid(lambda new, old, *t: reinforce(new, *t), lambda p, q, r, a: a)


def test_importance_weighted():
    on_grid(importance_weighted, lambda p, q, r, a: a * r)


@pytest.mark.parametrize("dual", [None, 1.3, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.5, 1.0), (1.0, 0.02), (0.0, 2.0)])
def test_ppo_clip(low, high, dual):
    def closed_form(p, q, r, a):
        passed = (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low)
        return 0.0 if passed or (a < 0 and dual is not None and r > dual) else a * r

    on_grid(lambda *t: ppo_clip(*t, clip_low=low, clip_high=high, dual_clip=dual), closed_form)


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-4), (0.2, 0.3), (1.0, 4.0)])
def test_gspo_token_of_one_token_is_ppo(low, high):
    def closed_form(p, q, r, a):
        return 0.0 if (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low) else a * r

    on_grid(lambda *t: gspo_token(*t, clip_low=low, clip_high=high), closed_form)


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
    return moved(old, 0.5 * draw(tensors(tuple(mask.shape), -1.0, 1.0))), old, draw(tensors(tuple(mask.shape))), mask


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
