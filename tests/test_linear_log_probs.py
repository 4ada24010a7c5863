"""From hidden states to log-probs: the same numbers and gradients as by way of the logits, in less memory."""

import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rl4llm import linear_tiles
from rl4llm.checks import UsageError
from rl4llm.linear_log_probs import linear_log_probs, listed_linear_log_probs
from rl4llm.log_probs import TokenLogProbs, listed_log_probs, token_log_probs
from rl4llm.testing.strategies import tensors

FEWER = settings(max_examples=settings.default.max_examples // 2)
ALL = {"temperature": 1.7, "scale": -2.0, "soft_cap": 5.0}
LAST = [{}, {"temperature": 0.6}, {"scale": 0.25}, {"soft_cap": 3.0}, ALL]
each_last = pytest.mark.parametrize("last", LAST, ids=str)


TILES = [None, (1, 1), (4, 2), (6, 3)]  # logits and tokens of a tile; None: as they are


@contextmanager
def cut_into(tiles):
    """Keep no logits and cut them into small tiles, the last of which may hold fewer tokens."""
    with pytest.MonkeyPatch.context() as patch:
        if tiles is not None:
            for name, value in zip(("KEPT_LOGITS", "TILE_LOGITS", "TILE_TOKENS"), (0, *tiles), strict=True):
                patch.setattr(linear_tiles, name, value)
        yield


@st.composite
def heads(draw):
    """Hidden states, weight, bias or none, ids; sometimes of no position."""
    count, vocab, width = draw(st.integers(0, 7)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    ids = draw(st.lists(st.integers(0, vocab - 1), min_size=count, max_size=count))
    bias = draw(st.none() | tensors((vocab,)))
    hidden, weight = draw(tensors((count, width))), draw(tensors((vocab, width)))
    return hidden, weight, bias, torch.tensor(ids, dtype=torch.long)


def logits_of(hidden, weight, bias, *, temperature=1.0, scale=1.0, soft_cap=None):
    """What a model would give: scaled and capped, in its dtype; the temperature is the sampler's."""
    logits = nn.functional.linear(hidden, weight, bias) * scale
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)


def plain(hidden, weight, bias, ids, **last):
    logits = logits_of(hidden, weight, bias, **last)
    return token_log_probs(logits, ids, temperature=last.get("temperature", 1.0), entropy=True, logsumexp=True)


def linear(hidden, weight, bias, ids, **options):
    return linear_log_probs(hidden, weight, ids, bias=bias, entropy=True, logsumexp=True, **options)


def leaves(*given):
    return [None if x is None else x.clone().requires_grad_() for x in given]


@pytest.mark.parametrize("tiles", TILES, ids=str)
@FEWER
@given(heads(), st.none() | st.integers(1, 9), st.sampled_from(LAST))
def test_results_and_gradients_are_those_of_the_logits(tiles, case, chunk_size, last):
    *given_, ids = case
    one, other = leaves(*given_), leaves(*given_)
    with cut_into(tiles):
        expected, got = plain(*one, ids, **last), linear(*other, ids, **last, chunk_size=chunk_size)
        for x, y in zip(got, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
        for results in (expected, got):
            sum((index * x + x.square()).sum() for index, x in enumerate(results)).backward()
    for x, y in zip(one, other, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(y.grad, x.grad, rtol=1e-10, atol=1e-10)


@each_last
@pytest.mark.parametrize("chunk_size", [2, None])
@pytest.mark.parametrize("tiles", [None, (4, 2), (12, 2)], ids=str)  # (12, 2): all positions in a tile, not all tokens
def test_the_gradient_of_each_result_is_exact(last, chunk_size, tiles):
    random = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, dtype=torch.float64, generator=random) for s in ((2, 3, 4), (5, 4), (5,)))
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    for index in range(3):
        with cut_into(tiles):
            assert torch.autograd.gradcheck(
                lambda h, w, b, index=index: linear(h, w, b, ids, **last, chunk_size=chunk_size)[index],
                leaves(hidden, weight, bias),
            )


@pytest.mark.parametrize("impossible", [[0], [0, 1], [1, 4], [2, 3, 4]], ids=str)
def test_tokens_that_cannot_occur_add_nothing_even_as_a_whole_tile(impossible):
    hidden, weight, ids = torch.randn(3, 2).double(), torch.randn(6, 2).double(), torch.tensor([5, 5, 5])
    bias = torch.zeros(6, dtype=torch.float64)
    bias[impossible] = -torch.inf
    one, other = leaves(hidden, weight), leaves(hidden, weight)
    with cut_into((4, 2)):
        expected, got = plain(*one, bias, ids), linear(*other, bias, ids)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        for results in (expected, got):
            sum(x.square().sum() for x in results).backward()
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tiles", [None, (16, 1)], ids=str)
def test_a_tile_holds_no_more_logits_than_it_may(tiles, monkeypatch):
    sizes, statistics = [], linear_tiles.chunk_statistics
    watched = lambda x, ids, *, entropy: sizes.append(x.shape) or statistics(x, ids, entropy=entropy)  # noqa: E731
    monkeypatch.setattr(linear_tiles, "chunk_statistics", watched)
    with cut_into(tiles):
        linear_log_probs(torch.randn(40, 2), torch.randn(5, 2), torch.zeros(40, dtype=torch.long))
    assert sizes == [(40, 5)] if tiles is None else sizes == [(16, 1)] * 10 + [(8, 1)] * 5


def test_what_is_not_to_be_trained_gets_no_gradient():
    hidden, weight = torch.randn(3, 2), torch.randn(4, 2)
    for trained in (hidden, weight):
        trained.requires_grad_()
        linear_log_probs(hidden, weight, torch.tensor([0, 1, 2])).sum().backward()
        assert trained.grad.any()
        other = weight if trained is hidden else hidden
        assert other.grad is None
        trained.requires_grad_(False)
        trained.grad = None


def test_tied_weights_get_the_sum_of_both_gradients():
    weight, ids = nn.Parameter(torch.randn(6, 3, dtype=torch.float64)), torch.tensor([4, 0, 2])
    first = torch.autograd.grad(token_log_probs(weight[ids] @ weight.T, ids.roll(1)).sum(), weight)
    second = torch.autograd.grad(linear_log_probs(weight[ids], weight, ids.roll(1), chunk_size=1).sum(), weight)
    torch.testing.assert_close(second, first)


@FEWER
@given(heads(), st.sampled_from([math.nan, math.inf]))
def test_a_position_without_incoming_gradient_passes_none_on(case, garbage):
    hidden, weight, bias, ids = case
    if len(ids) < 2:
        return
    for chunk_size in (1, None):
        clean, dirty = leaves(hidden, weight), leaves(hidden, weight)
        broken = torch.cat([dirty[0][:-1], torch.full_like(dirty[0][-1:], garbage)])
        linear_log_probs(clean[0], clean[1], ids, bias=bias, chunk_size=chunk_size)[:-1].sum().backward()
        linear_log_probs(broken, dirty[1], ids, bias=bias, chunk_size=chunk_size)[:-1].sum().backward()
        for x, y in zip(clean, dirty, strict=True):
            assert torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("chunk_size", [3, None])
def test_under_autocast_and_in_bfloat16_the_sums_are_wide(chunk_size):
    """The gradient of W is a sum over 4,096 positions: in bfloat16 it would stop growing after some hundreds."""
    hidden, ids = torch.ones(4096, 1, dtype=torch.bfloat16), torch.zeros(4096, dtype=torch.long)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    log_probs = linear_log_probs(hidden, weight, ids, chunk_size=chunk_size and 16)
    assert log_probs.dtype == torch.float32
    log_probs.sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad[:, 0].tolist() == [2048.0, -2048.0]
    single = torch.zeros(2, 1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_log_probs(hidden.float(), single, ids, chunk_size=chunk_size and 16)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert single.grad.dtype == torch.float32
    assert single.grad[:, 0].tolist() == [2048.0, -2048.0]


def test_the_gradient_of_a_hidden_state_in_bfloat16_is_a_wide_sum_over_tiles():
    """It is −Σᵥ πᵥ over 1,023 tokens: in bfloat16 it would stop growing at a quarter."""
    hidden = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight[0] = 0.0
    with cut_into((1, 1)):
        linear_log_probs(hidden, weight, torch.tensor([0, 0])).sum().backward()
    assert hidden.grad[:, 0].tolist() == [-1.0, -1.0]


def test_it_computes_what_a_model_under_autocast_computes():
    random = torch.Generator().manual_seed(0)
    hidden, weight, ids = torch.randn(8, 16, generator=random), torch.randn(11, 16, generator=random), torch.arange(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = nn.functional.linear(hidden, weight)
        torch.testing.assert_close(linear_log_probs(hidden, weight, ids), token_log_probs(logits, ids))


def test_only_what_is_asked_for_is_returned():
    hidden, weight, ids = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1])
    assert isinstance(linear_log_probs(hidden, weight, ids), torch.Tensor)
    some = linear_log_probs(hidden, weight, ids, logsumexp=True)
    assert isinstance(some, TokenLogProbs)
    assert some.entropies is None
    assert linear_log_probs(hidden, weight, ids, entropy=True).logsumexp is None


@FEWER
@given(heads(), st.sampled_from(LAST))
def test_listed_tokens_have_the_log_probs_of_the_logits(case, last):
    hidden, weight, bias, ids = case
    listed = torch.stack([ids, (ids + 1) % len(weight)], -1)
    _, _, normalizers = linear(hidden, weight, bias, ids, **last)
    found = listed_linear_log_probs(hidden.requires_grad_(), weight, listed, normalizers, bias=bias, **last)
    logits = logits_of(hidden, weight, bias, **last)
    expected = listed_log_probs(logits, listed, normalizers, temperature=last.get("temperature", 1.0))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not found.requires_grad


def test_the_logits_never_exist_as_a_whole():
    """Saved for backward is nothing of the size of the logits; the largest tensor is that of a chunk."""
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(512, 4, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        cut = linear_log_probs(hidden, weight, torch.zeros(64, dtype=torch.long), chunk_size=8)
    assert max(x.numel() for x in saved) == 512 * 4
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        whole = linear_log_probs(hidden, weight, torch.zeros(64, dtype=torch.long))
    assert max(x.numel() for x in saved) == 64 * 512  # one chunk holds all, so it is kept
    torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(2, 4)}, r"hidden has shape \(2, 4\), ids \(2,\), weight \(5, 3\); expected .*, 3\)"),
        ({"hidden": torch.zeros(3, 3)}, r"hidden has shape \(3, 3\), ids \(2,\)"),
        ({"bias": torch.zeros(4)}, r"bias has shape \(4,\); expected \(5,\)"),
        ({"ids": torch.tensor([0, 5])}, r"ids must be in \[0, 5\), got 5; fill ignored positions"),
        ({"ids": torch.tensor([-1, 4])}, r"ids must be in \[0, 5\), got -1"),
        ({"ids": torch.zeros(2)}, r"ids must hold integers, got torch\.float32"),
        ({"temperature": 0.0}, r"temperature must be in \(0, inf\), got 0"),
        ({"scale": math.inf}, r"scale must be in \(-inf, inf\), got inf"),
        ({"soft_cap": 0.0}, r"soft_cap must be in \(0, inf\), got 0"),
        ({"chunk_size": -1}, r"chunk_size must be a whole number of at least 1, got -1"),
        ({"chunk_size": 0}, r"chunk_size must be a whole number of at least 1, got 0"),
        ({"weight": torch.zeros(3)}, r"weight has shape \(3,\); expected 2 axes: vocab width"),
    ],
)
def test_what_does_not_fit_is_one_line(unchecked_shapes, changes, message):
    given_ = {"hidden": torch.zeros(2, 3), "weight": torch.zeros(5, 3), "ids": torch.tensor([0, 1])} | changes
    with pytest.raises(UsageError, match=rf"^linear_log_probs: {message}"):
        linear_log_probs(given_.pop("hidden"), given_.pop("weight"), given_.pop("ids"), **given_)
