"""Laws of the corrections between engine and trainer: identity where they agree, bounds, and what stays unbiased."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.corrections import (
    IcePop,
    MaskedImportance,
    TruncatedImportance,
    engine_log_ratio,
    masked_importance,
    truncated_importance,
)
from rl4llm.objectives import reinforce
from rl4llm.testing.reference.offpolicy import loop_masked_importance, loop_truncated_importance
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved

ALL = [
    TruncatedImportance(),
    TruncatedImportance(cap=math.inf, level="response"),
    IcePop(),
    IcePop(low=0.0, high=math.inf),
    MaskedImportance(),
    MaskedImportance(low=0.5, high=2.0, level="response"),
]

FUNCTIONS = [
    truncated_importance,
    lambda *log_probs: truncated_importance(*log_probs, cap=math.inf, level="response"),
    lambda *log_probs: masked_importance(*log_probs, low=0.5, high=5.0, level="token"),
    lambda *log_probs: masked_importance(*log_probs, low=0.0, high=math.inf, level="token"),
    lambda *log_probs: masked_importance(*log_probs, low=0.5, high=5.0, level="response"),
    lambda *log_probs: masked_importance(*log_probs, low=0.5, high=5.0, level="mean"),
]


@st.composite
def cases(draw, low=-4.0):
    """Log-probs of trainer and engine, and a mask."""
    mask = draw(masks())
    rollout = draw(tensors(tuple(mask.shape), low, -0.01))
    return moved(rollout, draw(st.sampled_from([0.01, 0.5])) * draw(tensors(tuple(mask.shape)))), rollout, mask


@given(cases(), st.sampled_from([1.0, 1.5, 2.0, math.inf]), st.sampled_from(["token", "response"]))
def test_truncated_importance_equals_the_loop(case, cap, level):
    expected = loop_truncated_importance(*case, cap=cap, level=level)
    torch.testing.assert_close(truncated_importance(*case, cap=cap, level=level), expected, rtol=1e-9, atol=1e-12)


@given(
    cases(),
    st.sampled_from([(0.5, 5.0), (0.9, 1.1), (0.0, 2.0), (0.7, math.inf)]),
    st.sampled_from(["token", "response", "mean"]),
)
def test_masked_importance_equals_the_loop(case, bounds, level):
    low, high = bounds
    expected = loop_masked_importance(*case, low=low, high=high, level=level)
    got = masked_importance(*case, low=low, high=high, level=level)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("part", ALL, ids=repr)
@given(rollouts())
def test_where_engine_and_trainer_agree_nothing_is_corrected(part, batch):
    agreed = batch.replace(old_log_probs=batch.rollout_log_probs)
    assert torch.equal(part(agreed), batch.response_mask.double())


@pytest.mark.parametrize("part", ALL, ids=repr)
@given(rollouts())
def test_weights_are_constants_of_the_named_range(part, batch):
    weights = part(batch)
    assert (weights >= 0).all()
    inside = weights[weights > 0]
    if isinstance(part, TruncatedImportance):
        assert (weights <= part.cap).all()
    else:
        assert ((inside >= part.low - 1e-12) & (inside <= part.high + 1e-12)).all()


@given(cases())
def test_without_a_cap_the_weights_are_plain_importance_sampling(case):
    old, rollout, mask = case
    plain = torch.where(mask, (old - rollout).exp(), 0.0)
    torch.testing.assert_close(truncated_importance(*case, cap=math.inf), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        masked_importance(*case, low=0.0, high=math.inf, level="token"), plain, rtol=1e-12, atol=1e-12
    )
    product = torch.where(mask, old - rollout, 0.0).sum(-1, keepdim=True).exp()
    whole = truncated_importance(*case, cap=math.inf, level="response")
    torch.testing.assert_close(whole, torch.where(mask, product, 0.0), rtol=1e-9, atol=1e-12)


@given(cases(), st.sampled_from(["token", "response", "mean"]))
def test_wider_bounds_keep_more(case, level):
    narrow = masked_importance(*case, low=0.9, high=1.1, level=level)
    wide = masked_importance(*case, low=0.5, high=1.9, level=level)
    assert torch.equal(narrow[narrow > 0], wide[narrow > 0])


@given(cases())
def test_single_tokens_are_their_own_response(case):
    old, rollout, mask = (x[:, :1] for x in case)
    token = truncated_importance(old, rollout, mask)
    torch.testing.assert_close(truncated_importance(old, rollout, mask, level="response"), token)
    mean, product = (masked_importance(old, rollout, mask, low=0.5, high=2.0, level=x) for x in ("mean", "response"))
    assert torch.equal(mean, product)


def test_the_numbers_of_one_response():
    # w = 3, 1/2, 1: product 3/2, geometric mean (3/2)^(1/3) = 1.1447
    old, rollout = torch.tensor([[0.3, 0.2, 0.5]]).log(), torch.tensor([[0.1, 0.4, 0.5]]).log()
    mask = torch.ones(1, 3, dtype=torch.bool)

    def close(got, expected):
        torch.testing.assert_close(got, torch.tensor([expected]))

    close(truncated_importance(old, rollout, mask), [2.0, 0.5, 1.0])
    close(truncated_importance(old, rollout, mask, level="response"), [1.5, 1.5, 1.5])
    close(truncated_importance(old, rollout, mask, cap=1.2, level="response"), [1.2, 1.2, 1.2])
    close(masked_importance(old, rollout, mask, low=0.6, high=5.0, level="token"), [3.0, 0.0, 1.0])
    close(masked_importance(old, rollout, mask, low=0.4, high=2.5, level="token"), [0.0, 0.5, 1.0])
    for level, edge in (("response", 1.5), ("mean", 1.5 ** (1 / 3))):
        close(masked_importance(old, rollout, mask, low=0.0, high=edge + 0.01, level=level), [edge, edge, edge])
        close(masked_importance(old, rollout, mask, low=0.0, high=edge - 0.01, level=level), [0.0, 0.0, 0.0])
        swapped = masked_importance(rollout, old, mask, low=1 / edge + 0.01, high=9.0, level=level)
        close(swapped, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("level", ["token", "response"])
def test_weighing_gives_the_gradient_of_the_trainers_policy(level):
    """E_μ[w g] = E_old[g], over all responses of two tokens from a vocabulary of three.

    With the weight of the response it holds for any g; with that of the token where g is of the first token alone.
    """
    generator = torch.Generator().manual_seed(0)
    old, mu = (torch.randn(4, 3, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    logits = old.clone().requires_grad_()
    responses = torch.tensor(list(itertools.product(range(3), repeat=2)))
    states = torch.stack([torch.zeros(9, dtype=torch.long), 1 + responses[:, 0]], dim=1)
    mask = torch.ones(9, 2, dtype=torch.bool) if level == "response" else torch.tensor([[True, False]]).expand(9, 2)
    advantages = torch.randn(9, 1, generator=generator, dtype=torch.float64).expand(9, 2)
    advantages = advantages if level == "response" else torch.stack([responses[:, 0].double() - 1] * 2, dim=1)
    log_old, log_mu = (table[states, responses] for table in (old, mu))

    def gradient(weights, log_draw):
        log_probs = logits.log_softmax(-1)[states, responses]
        losses = reinforce(log_probs, advantages * weights, mask).sum(-1)
        return torch.autograd.grad((log_draw.sum(-1).exp() * losses).sum(), logits)[0]

    weights = truncated_importance(log_old, log_mu, mask, cap=math.inf, level=level)
    expected = gradient(mask.double(), log_old)
    torch.testing.assert_close(gradient(weights, log_mu), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(gradient(mask.double(), log_mu), expected, atol=1e-3)


@pytest.mark.parametrize("weights", FUNCTIONS)
@pytest.mark.parametrize("gap", [1e4, -1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_no_gap_overflows(weights, gap, dtype):
    old, rollout = (torch.full((2, 3), number, dtype=dtype) for number in (min(gap, 0.0), min(-gap, 0.0)))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = weights(old, rollout, mask)
    assert got.isfinite().all()
    assert got.dtype == dtype
    assert not got[~mask].any()


def test_beyond_every_cap_the_weight_is_that_of_twenty_nats():
    rollout, mask = torch.full((1, 2), -31.0, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    expected = torch.full((1, 2), math.exp(20), dtype=torch.float64)
    torch.testing.assert_close(truncated_importance(rollout + 30, rollout, mask, cap=math.inf), expected)


def test_bf16_log_probs_are_subtracted_in_float32():
    # d = 515/128 = 4.0234 is no bf16 number; rounded to 4.03125 first, e^d would be 56.25 instead of 56
    old, rollout = torch.tensor([[-1 / 128]], dtype=torch.bfloat16), torch.tensor([[-4.03125]], dtype=torch.bfloat16)
    weights = truncated_importance(old, rollout, torch.tensor([[True]]), cap=math.inf)
    assert weights.tolist() == [[56.0]]


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", FUNCTIONS)
def test_an_engine_without_log_probs_cannot_be_corrected(weights):
    rollout, old = torch.tensor([[-1.0, math.nan]]), torch.tensor([[-1.0, -1.0]])
    assert weights(old, rollout, torch.tensor([[True, False]])).tolist() == [[1.0, 0.0]]
    with pytest.raises(UsageError, match=r"importance: rollout_log_probs are NaN at trained tokens.*[^\n]$"):
        weights(old, rollout, torch.tensor([[True, True]]))


def test_shapes_are_checked(unchecked_shapes):
    ones, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for weights in FUNCTIONS:
        with pytest.raises(
            UsageError, match=r"importance: rollout_log_probs has shape \(2, 1\), response_mask \(2, 3\)"
        ):
            weights(ones, ones[:, :1], mask)
    with pytest.raises(UsageError, match=r"engine_log_ratio: old_log_probs has shape"):
        engine_log_ratio(ones[:1], ones, mask)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TruncatedImportance(cap=0.9), r"TruncatedImportance: cap must be in \[1, inf\], got 0.9"),
        (lambda: TruncatedImportance(level="mean"), "TruncatedImportance: level must be one of 'token', 'response'"),
        (lambda: IcePop(low=1.1), r"IcePop: low must be in \[0, 1\] and high at least 1, got low=1.1 and high=5.0"),
        (lambda: IcePop(low=-0.1), "IcePop: low must be"),
        (lambda: MaskedImportance(high=0.999), "MaskedImportance: low must be .* got low=0.999 and high=0.999"),
        (lambda: MaskedImportance(high=math.nan), "MaskedImportance: low must be"),
        (lambda: MaskedImportance(level="token"), "MaskedImportance: level must be one of 'response', 'mean'"),
    ],
)
def test_values_are_checked_at_construction(build, message, unchecked_shapes):
    with pytest.raises(UsageError, match=message):
        build()
