"""Token by token: nothing depends on when the host looks, it looks no more often than it says, on any architecture."""

from functools import wraps

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rl4llm.models import Policy, TinyQwen3
from rl4llm.rollouts import Sampling, drawing
from rl4llm.rollouts.drawing import draw
from tests.models.test_prefixes import ARCHITECTURES, causal_lm
from tests.rollouts.helpers import generate, said

ROWS = [[2, 3, 4, 5, 6], [7, 8], [9, 3, 9]]


@pytest.fixture(scope="module")
def policy():
    return Policy(*TinyQwen3().build())


def same(one, other):
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.ended, other.ended)
    for name in ("log_probs", "entropies", "top_log_probs"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=1e-5)


# --- the host's looks -------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    look_every=st.integers(1, 40),
    limits=st.lists(st.integers(1, 24), min_size=3, max_size=3),
    even=st.booleans(),
    temperature=st.sampled_from([1.0, 0.3, 0.1]),  # the lower, the longer responses have the same tokens
)
def test_responses_do_not_depend_on_when_the_host_looks(policy, look_every, limits, even, temperature):
    rows, options = [row[:2] for row in ROWS] if even else ROWS, {"top": 2, "temperature": temperature}
    one, other = (generate(policy, rows, limits, copies=4, look_every=n, **options) for n in (1, look_every))
    same(one, other)


class Reads(TorchDispatchMode):
    """Counts the operations for whose result the host waits."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "_unique2", "masked_select", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masked = function.__name__.startswith("index.") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        self.count += masked or function.__name__.split(".")[0] in self.NAMES
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("rows", [ROWS, [row[:2] for row in ROWS]], ids=["padded", "even"])
def test_no_token_is_read_by_the_host_between_two_looks(rows, monkeypatch):
    policy, listed = Policy(*TinyQwen3().build()), []
    policy.end_ids = list(range(40, 2000))  # no token of this vocabulary, but many
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: listed.append(tensor) or tolist(tensor))
    counts = []
    for limit in (4, 19):
        listed.clear()
        with Reads() as reads:
            generate(policy, rows, [limit] * 3, look_every=100)
        counts.append((reads.count, len(listed)))
    assert counts[0] == counts[1]


def test_the_host_looks_as_often_as_it_says(policy, monkeypatch):
    looks, tolist = [], torch.Tensor.tolist

    def watched(tensor):
        looks.extend([tensor] if tensor.dtype == torch.bool else [])
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", watched)
    monkeypatch.setattr(policy, "end_ids", [])
    generate(policy, ROWS, [19] * 3, look_every=4)
    assert len(looks) == 4


def test_no_position_lies_beyond_what_the_limit_allows(policy):
    seen, forward = [], policy.model.forward

    @wraps(forward)  # the engine reads which arguments it takes
    def watched(*args, **kwargs):
        seen.append(kwargs["position_ids"][:, -1])
        return forward(*args, **kwargs)

    policy.model.forward = watched
    try:
        generate(policy, ROWS, [2, 16, 5], copies=1, look_every=100)
    finally:
        del policy.model.forward
    assert (torch.stack(seen[1:]).amax(0) <= torch.tensor([5 + 2, 2 + 16, 3 + 5]) - 1).all()


# --- any architecture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("rows", [ROWS, [row[:2] for row in ROWS]], ids=["padded", "even"])
@pytest.mark.parametrize("look_every", [1, 2])
def test_log_probs_are_those_of_a_pass_over_each_sequence_alone(name, rows, look_every):
    policy = Policy(causal_lm(name), TinyQwen3().build()[1])
    policy.end_ids = [3, 4, 5]
    drawn = generate(policy, rows, [12] * 3, copies=6, look_every=look_every)
    assert len(set(drawn.widths.tolist())) > 2
    for row, (tokens, log_probs) in enumerate(zip(said(drawn), drawn.log_probs, strict=True)):
        prompt = rows[row // 6]
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.float().log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(log_probs[: len(tokens)], expected, rtol=0, atol=1e-4)


# --- rows in blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.0), Sampling(top_k=3), Sampling(top_p=0.7)])
def test_rows_drawn_in_blocks_are_those_drawn_at_once(sampling, monkeypatch):
    random = torch.Generator().manual_seed(0)
    logits, uniforms = torch.randn(50, 11, generator=random), torch.rand(50, dtype=torch.float64, generator=random)
    logits[:, 4] = -torch.inf
    whole = draw(logits, sampling, uniforms, top=2)
    monkeypatch.setattr(drawing, "_BLOCK", 40)
    for one, other in zip(whole, draw(logits, sampling, uniforms, top=2), strict=True):
        assert torch.equal(one, other)
    assert whole.entropies.isfinite().all()
