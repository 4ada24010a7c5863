import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.log_probs import TokenLogProbs, token_log_probs
from rl4llm.testing.reference.objectives import loop_token_log_probs
from rl4llm.testing.strategies import tensors

TEMPERATURES = st.sampled_from([0.3, 1.0, 1.7])


@st.composite
def positions(draw, low=-8.0, high=8.0):
    count, vocab = draw(st.integers(0, 7)), draw(st.integers(1, 6))
    ids = draw(st.lists(st.integers(0, vocab - 1), min_size=count, max_size=count))
    return draw(tensors((count, vocab), low, high)), torch.tensor(ids, dtype=torch.long)


def everything(logits, ids, **options):
    return token_log_probs(logits, ids, entropy=True, logsumexp=True, **options)


@given(positions(), TEMPERATURES)
def test_equals_the_reference_loop(drawn, temperature):
    logits, ids = drawn
    for got, expected in zip(
        everything(logits, ids, temperature=temperature),
        loop_token_log_probs(logits, ids, temperature=temperature),
        strict=True,
    ):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@given(positions(), TEMPERATURES)
def test_a_sampler_at_any_temperature_gives_the_same_log_probs(drawn, temperature):
    logits, ids = drawn
    sampler = torch.distributions.Categorical(logits=logits / temperature, validate_args=False)
    log_probs, entropies, _ = everything(logits, ids, temperature=temperature)
    torch.testing.assert_close(log_probs, sampler.log_prob(ids))
    torch.testing.assert_close(entropies, sampler.entropy())


@given(positions(), st.integers(1, 9))
def test_chunk_size_does_not_change_a_bit(drawn, chunk_size):
    logits, ids = drawn
    whole = logits.clone().requires_grad_()
    cut = logits.clone().requires_grad_()
    results = [everything(whole, ids), everything(cut, ids, chunk_size=chunk_size)]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    for output in results:
        sum((x * x).sum() for x in output).backward()
    assert torch.equal(whole.grad, cut.grad)


@given(positions(-200.0, 200.0))
def test_entropy_is_between_zero_and_log_vocab(drawn):
    logits, ids = drawn
    entropies = everything(logits, ids).entropies
    assert (entropies >= 0).all()
    assert (entropies <= math.log(logits.shape[-1]) + 1e-12).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_gradients_of_all_three_results_are_exact(temperature, chunk_size):
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    options = {"temperature": temperature, "chunk_size": chunk_size}
    assert torch.autograd.gradcheck(lambda x: tuple(everything(x, ids, **options)), logits)
    assert torch.autograd.gradcheck(lambda x: token_log_probs(x, ids, **options), logits)
    assert torch.autograd.gradcheck(lambda x: everything(x, ids, **options).entropies, logits)
    assert torch.autograd.gradcheck(lambda x: everything(x, ids, **options).logsumexp, logits)


@given(positions(), TEMPERATURES)
def test_gradients_equal_those_of_log_softmax(drawn, temperature):
    logits, ids = drawn
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    log_probs, entropies, normalizers = everything(ours, ids, temperature=temperature)
    (log_probs.sum() + 2 * entropies.sum() - 3 * (normalizers**2).sum()).backward()
    logs = (theirs / temperature).log_softmax(-1)
    expected = logs.gather(-1, ids[:, None]).sum() - 2 * (logs.exp() * logs).sum()
    (expected - 3 * ((theirs / temperature).logsumexp(-1) ** 2).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_token_that_cannot_occur_adds_nothing_and_gets_no_gradient():
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], dtype=torch.float64, requires_grad=True)
    short = logits.detach()[:, :2].clone().requires_grad_()
    for x in (logits, short):
        log_probs, entropies, normalizers = everything(x, torch.tensor([1]))
        (log_probs + 5 * entropies + normalizers).sum().backward()
    assert torch.equal(everything(logits, torch.tensor([1])).entropies, everything(short, torch.tensor([1])).entropies)
    assert torch.equal(logits.grad[:, :2], short.grad)
    assert logits.grad[0, 2] == 0


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_a_position_without_incoming_gradient_passes_none_on(garbage):
    logits = torch.zeros(2, 3, dtype=torch.float64)
    logits[1] = garbage
    logits.requires_grad_()
    log_probs, entropies, normalizers = everything(logits, torch.tensor([0, 0]))
    mask = torch.tensor([True, False])
    for x in (log_probs, entropies, normalizers):
        torch.where(mask, x, 0.0).sum().backward(retain_graph=True)
    assert torch.equal(logits.grad[1], torch.zeros(3, dtype=torch.float64))
    assert logits.grad[0].isfinite().all()


def test_bfloat16_logits_are_accumulated_in_float32():
    logits = (3 * torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))).bfloat16().requires_grad_()
    ids = torch.tensor([1, 2, 3, 4])
    results = everything(logits, ids)
    exact = everything(logits.detach().double(), ids)
    for got, expected in zip(results, exact, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    results.log_probs.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_strided_logits_are_read_where_they_lie():
    logits = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 2, 2]])
    view = logits[:, 1:-1]
    assert not view.is_contiguous()
    got = everything(view, ids, chunk_size=3)
    expected = everything(view.contiguous(), ids)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    gradients = [torch.autograd.grad((x.log_probs * x.entropies).sum(), logits)[0] for x in (got, expected)]
    assert torch.equal(*gradients)


def test_only_what_is_asked_for_is_returned():
    logits, ids = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert isinstance(token_log_probs(logits, ids), torch.Tensor)
    with_entropy = token_log_probs(logits, ids, entropy=True)
    assert isinstance(with_entropy, TokenLogProbs)
    assert with_entropy.logsumexp is None
    assert token_log_probs(logits, ids, logsumexp=True).entropies is None


def test_nothing_of_the_size_of_the_logits_is_kept_beside_them():
    logits = torch.zeros(6, 50, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        everything(logits, torch.zeros(6, dtype=torch.long))
    assert [x.data_ptr() for x in kept if x.numel() >= logits.numel()] == [logits.data_ptr()]


def test_inputs_are_not_mutated():
    logits, ids = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.arange(4)
    before = logits.detach().clone()
    everything(logits, ids).entropies.sum().backward()
    assert torch.equal(logits, before)
    assert torch.equal(ids, torch.arange(4))


def test_no_positions_give_empty_results():
    logits = torch.zeros(2, 0, 3, requires_grad=True)
    log_probs = token_log_probs(logits, torch.zeros(2, 0, dtype=torch.long))
    assert log_probs.shape == (2, 0)
    log_probs.sum().backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(UsageError, match="temperature must be in"):
        token_log_probs(torch.zeros(1, 2), torch.tensor([0]), temperature=temperature)


def test_chunk_size_must_be_positive():
    with pytest.raises(UsageError, match="chunk_size must be a whole number of at least 1, got 0"):
        token_log_probs(torch.zeros(1, 2), torch.tensor([0]), chunk_size=0)


@pytest.mark.parametrize("outside", [-1, -100, 3])
def test_ids_must_be_in_the_vocabulary(outside):
    with pytest.raises(UsageError, match=rf"ids must be in \[0, 3\), got {outside}"):
        token_log_probs(torch.zeros(2, 3), torch.tensor([0, outside]))


def test_ids_must_match_the_positions(unchecked_shapes):
    with pytest.raises(UsageError, match=r"ids has shape \(3,\), logits \(2, 3\); pass one id per position"):
        token_log_probs(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_ids_must_be_integers(unchecked_shapes, dtype):
    with pytest.raises(UsageError, match="ids must hold integers"):
        token_log_probs(torch.zeros(2, 3), torch.zeros(2, dtype=dtype))
