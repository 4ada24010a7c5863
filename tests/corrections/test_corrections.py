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
from rl4llm.testing.reference_offpolicy import loop_masked_importance, loop_truncated_importance
from rl4llm.testing.strategies import masks, rollouts, tensors

ALL = [
    TruncatedImportance(),
    TruncatedImportance(cap=math.inf, level="response"),
    IcePop(),
    IcePop(low=0.0, high=math.inf),
    MaskedImportance(),
    MaskedImportance(low=0.5, high=2.0, level="response"),
]


@st.composite
def cases(draw, low=-4.0):
    """Log-probs of trainer and engine, and a mask."""
    mask = draw(masks())
    rollout = draw(tensors(tuple(mask.shape), low, -0.01))
    return rollout + draw(st.sampled_from([0.01, 0.5])) * draw(tensors(tuple(mask.shape))), rollout, mask


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
    traced = batch.replace(old_log_probs=batch.old_log_probs.requires_grad_())
    weights = part(traced)
    assert not weights.requires_grad
    assert (weights >= 0).all()
    inside = weights[weights > 0]
    if isinstance(part, TruncatedImportance):
        assert (weights <= part.cap).all()
    elif isinstance(part, IcePop):
        assert ((inside >= part.low - 1e-12) & (inside <= part.high + 1e-12)).all()
    else:
        assert (inside == 1).all()


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
        close(masked_importance(old, rollout, mask, low=0.0, high=edge + 0.01, level=level), [1.0, 1.0, 1.0])
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


@pytest.mark.parametrize("part", ALL, ids=repr)
@pytest.mark.parametrize("gap", [1e4, -1e4, math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_no_gap_overflows(part, gap, dtype):
    batch = next(iter([_batch(dtype)]))
    weights = part(batch.replace(old_log_probs=batch.rollout_log_probs + gap))
    assert weights.isfinite().all()
    assert weights.dtype == dtype


def test_beyond_every_cap_the_weight_is_that_of_twenty_nats():
    batch = _batch(torch.float64)
    weights = TruncatedImportance(cap=math.inf)(batch.replace(old_log_probs=batch.rollout_log_probs + 30))
    torch.testing.assert_close(weights, torch.full((2, 3), math.exp(20), dtype=torch.float64))


def test_bf16_log_probs_are_summed_in_float32():
    # 1,000 tokens, each 2⁻⁶ likelier; bf16 sums stall long before 15.6
    rollout = torch.full((1, 1000), -1.0, dtype=torch.bfloat16)
    mask = torch.ones(1, 1000, dtype=torch.bool)
    weights = truncated_importance(rollout + 2**-6, rollout, mask, cap=math.inf, level="response")
    torch.testing.assert_close(weights[0, 0].float(), torch.tensor(math.exp(15.625)), rtol=1e-2, atol=0)


def _batch(dtype):
    from tests.replay.test_replay import small

    return small([0.0, 1.0])
