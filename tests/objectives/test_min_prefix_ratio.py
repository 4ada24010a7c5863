"""MinPRO: the weight of a token is its ratio times the smallest one before it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.objectives import min_prefix_ratio
from rl4llm.testing.strategies import masks, tensors
from tests.log_probs import moved


def coefficient(objective, new, old, advantages, mask):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    objective(new, old, advantages, mask).sum().backward()
    return -new.grad


def clip(x, low, high):
    return min(max(x, low), high)


@st.composite
def sequences(draw):
    mask = draw(masks())
    old = draw(tensors(tuple(mask.shape), -4.0, -0.1))
    return moved(old, 0.5 * draw(tensors(tuple(mask.shape), -1.0, 1.0))), old, draw(tensors(tuple(mask.shape))), mask


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
