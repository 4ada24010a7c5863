"""One token per row: the inverse of the distribution function, filters, and whose random numbers they are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rollouts import Sampling, inverse_cdf, response_uniforms
from rl4llm.rollouts.drawing import draw

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
BELOW_ONE = 1 - 2.0**-53  # the largest number that torch.rand gives in float64

weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=1, max_size=40).filter(any)
uniform = st.one_of(st.sampled_from([0.0, 2.0**-53, 0.5, BELOW_ONE]), st.floats(0, BELOW_ONE))


def log_probs_of(given_weights):
    weights = torch.tensor(given_weights, dtype=torch.float64)
    return (weights / weights.sum()).float().log()


def uniforms(count, seed=0):
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chi_square(counts, expected):
    """The statistic and its 99.9 % quantile (Wilson and Hilferty), with rare cells put together."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    keep = expected > 1e-6
    df = keep.sum() - 1
    bound = df * (1 - 2 / (9 * df) + 3.09 * math.sqrt(2 / (9 * df))) ** 3
    return ((counts - expected)[keep] ** 2 / expected[keep]).sum(), bound


# --- the inverse of the distribution function -------------------------------------------------------------------------


@given(weights, st.lists(uniform, min_size=1, max_size=8))
def test_the_token_is_the_first_whose_cumulative_mass_exceeds_the_uniform(given_weights, numbers):
    log_probs = log_probs_of(given_weights)
    tokens = inverse_cdf(log_probs.expand(len(numbers), -1), torch.tensor(numbers, dtype=torch.float64))
    mass = log_probs.exp().double().numpy()
    cumulative = np.concatenate([[0.0], mass.cumsum()])
    for token, u in zip(tokens.tolist(), numbers, strict=True):
        target = u * cumulative[-1]
        assert mass[token] > 0
        assert cumulative[token] - 1e-12 <= target <= cumulative[token + 1] + 1e-12


@given(weights)
def test_the_ends_of_the_unit_interval_give_the_first_and_the_last_token_with_mass(given_weights):
    log_probs = log_probs_of(given_weights)
    tokens = inverse_cdf(log_probs.expand(2, -1), torch.tensor([0.0, BELOW_ONE], dtype=torch.float64))
    possible = (log_probs.exp() > 2.0**-40).nonzero()[:, 0]
    assert tokens[0] <= possible[0]
    assert tokens[1] >= possible[-1]
    assert log_probs[tokens].isfinite().all()


def test_a_large_vocabulary_without_mass_at_its_ends_is_searched_exactly():
    log_probs = torch.full((3, 150_000), -torch.inf)
    log_probs[:, [1000, 149_000]] = math.log(0.5)
    ends = torch.tensor([0.0, 0.5, BELOW_ONE], dtype=torch.float64)
    assert inverse_cdf(log_probs, ends).tolist() == [1000, 149_000, 149_000]


@pytest.mark.parametrize("largest", [torch.tensor(BELOW_ONE, dtype=torch.float64), torch.tensor(BELOW_ONE).float()])
def test_a_uniform_that_single_precision_rounds_up_to_one_never_reaches_the_tokens_without_mass(largest):
    logits = torch.randn(1000, 51, generator=torch.Generator().manual_seed(0))
    logits[:, 50] = -torch.inf
    log_probs = logits.log_softmax(-1)
    assert (inverse_cdf(log_probs, largest.expand(1000)) == 49).all()


def test_logits_that_are_not_finite_give_some_token_of_the_vocabulary():
    tokens = inverse_cdf(torch.full((4, 5), torch.nan), uniforms(4))
    assert ((tokens >= 0) & (tokens < 5)).all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0), Sampling(top_k=3), Sampling(top_p=0.8)])
def test_draws_follow_the_filtered_distribution(sampling):
    count = 50_000
    tokens = draw(LOGITS.expand(count, -1), sampling, uniforms(count)).tokens
    expected = sampling.filter(sampling.tempered(LOGITS)).softmax(-1)[0]
    statistic, bound = chi_square(torch.bincount(tokens, minlength=5), expected * count)
    assert statistic < bound
    assert not torch.bincount(tokens, minlength=5)[expected == 0].any()


# --- what is reported -------------------------------------------------------------------------------------------------


def test_log_probs_and_entropy_are_those_of_the_tempered_distribution():
    tokens, log_probs, entropy, *_ = draw(LOGITS.expand(100, -1), Sampling(temperature=2.0), uniforms(100))
    expected = torch.softmax(LOGITS[0] / 2.0, -1)
    torch.testing.assert_close(log_probs, expected.log()[tokens])
    torch.testing.assert_close(entropy[0], torch.distributions.Categorical(expected).entropy())


def test_log_probs_are_of_the_whole_vocabulary_whatever_the_filter():
    tokens, log_probs, *_ = draw(LOGITS.expand(100, -1), Sampling(top_k=2), uniforms(100))
    assert set(tokens.tolist()) == {0, 1}
    torch.testing.assert_close(log_probs, torch.log_softmax(LOGITS[0], -1)[tokens])


def test_greedy_takes_the_likeliest_token_whatever_the_uniform():
    for u in (0.0, 0.5, BELOW_ONE):
        drawn = draw(LOGITS, Sampling(temperature=0.0), torch.tensor([u], dtype=torch.float64))
        assert drawn.tokens.tolist() == [0]


# --- whose random numbers they are ------------------------------------------------------------------------------------

requests = st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 9)), min_size=1, max_size=5)


@given(requests, st.integers(1, 4), st.integers(0, 4), st.integers(0, 3))
def test_a_response_has_the_same_uniforms_whatever_is_drawn_beside_it(asked, copies, more, longer):
    seeds, limits = (torch.tensor(column) for column in zip(*asked, strict=True))
    together = response_uniforms(seeds, limits + longer, copies=copies + more).unflatten(0, (len(asked), copies + more))
    for index, (seed, limit) in enumerate(asked):
        for copy in range(copies):
            alone = response_uniforms(torch.tensor([seed]), torch.tensor([limit]), copies=1, first=copy)
            assert torch.equal(alone[0], together[index, copy, :limit])


def test_uniforms_are_uniform_and_those_of_two_copies_or_prefixes_unrelated():
    numbers = response_uniforms(torch.arange(64), torch.full((64,), 32), copies=8)
    counts = torch.histc(numbers.flatten(), bins=20, min=0, max=1)
    statistic, bound = chi_square(counts, torch.full((20,), numbers.numel() / 20))
    assert statistic < bound
    related = torch.corrcoef(numbers) - torch.eye(512)
    assert related.abs().mean() < 1.1 * math.sqrt(2 / math.pi / 32)  # as large as chance makes them


# --- filters ----------------------------------------------------------------------------------------------------------


def test_filters_keep_the_likeliest_tokens():
    log_probs = torch.log_softmax(LOGITS, -1)
    assert Sampling(top_k=2).filter(log_probs).isfinite().tolist() == [[True, True, False, False, False]]
    probabilities = log_probs.exp()[0]
    border = float(probabilities[:2].sum())
    assert Sampling(top_p=border - 1e-3).filter(log_probs).isfinite().sum() == 2
    assert Sampling(top_p=border + 1e-3).filter(log_probs).isfinite().sum() == 3
    assert Sampling(top_p=1e-6).filter(log_probs).isfinite().sum() == 1
    assert torch.equal(Sampling().filter(log_probs), log_probs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, r"temperature must be in \[0, inf\), got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"max_response_tokens": 0}, "max_response_tokens must be"),
    ],
)
def test_sampling_refuses_impossible_values(options, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**options)
