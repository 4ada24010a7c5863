"""The life of an engine, what it is asked for beyond responses to prompts, and what it returns."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.models import Policy
from rl4llm.rollouts import (
    Engine,
    HuggingFaceEngine,
    HuggingFaceRollout,
    Responses,
    Sampling,
    decode,
    decode_pieces,
    decode_responses,
    draw_rollouts,
)
from rl4llm.rollouts.decoding import _by_context, _by_prefixes
from tests.rollouts.helpers import generate, prompts, rollouts, said, seeds_of


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


# --- limits, beginnings, likeliest tokens -----------------------------------------------------------------------------


def test_every_prefix_has_its_own_limit(policy):
    row = policy.tokenizer("583912=")["input_ids"]
    drawn = generate(policy, [row, row, row], [1, 3, 9], copies=4)
    assert drawn.widths.reshape(3, 4).amax(-1).tolist() == [1, 3, 9]
    assert (drawn.ended | (drawn.widths == torch.tensor([1, 3, 9]).repeat_interleave(4))).all()
    assert not drawn.ended[drawn.widths == 1].any()


def test_a_response_goes_on_from_its_beginning_as_it_would_have(policy):
    row = policy.tokenizer("583912=")["input_ids"]
    whole = generate(policy, [row], [16], copies=1, temperature=0.0)
    assert int(whole.widths[0]) > 2
    for cut in range(1, int(whole.widths[0])):
        rest = generate(policy, [row + whole.ids[0, :cut].tolist()], [16 - cut], copies=1, temperature=0.0)
        assert rest.ids[0].tolist() == whole.ids[0, cut : int(whole.widths[0])].tolist()
        torch.testing.assert_close(rest.log_probs[0], whole.log_probs[0, cut:], atol=1e-5, rtol=0)


def test_likeliest_tokens_come_with_their_log_probs_whatever_was_drawn(policy):
    drawn = generate(policy, [policy.tokenizer("12=")["input_ids"]], [8], copies=6, top=3)
    inside = drawn.mask
    best = drawn.top_log_probs[..., 0]
    assert (best >= drawn.log_probs)[inside].all()
    is_best = (drawn.top_ids[..., 0] == drawn.ids) & inside
    torch.testing.assert_close(drawn.log_probs[is_best], best[is_best])
    assert not drawn.top_log_probs[~inside].any()


@pytest.mark.parametrize("top", [0, 3, 500])
def test_no_prefixes_give_no_responses_with_the_same_fields(policy, top):
    some, none = (generate(policy, rows, [4] * len(rows), top=top) for rows in ([[2, 3]], []))
    assert len(none) == 0
    for name, tensor in some.tensors().items():
        empty = none.tensors()[name]
        assert (empty.dtype, empty.ndim, empty.shape[2:]) == (tensor.dtype, tensor.ndim, tensor.shape[2:])
    assert len(Responses.cat([none, some, none])) == 2
    batch = rollouts(policy, prompts(), top=top)
    assert len(batch) == 0
    assert batch.policy_version is not None
    assert decode_responses(policy, batch) == []
    full = rollouts(policy, prompts("12="), top=top)
    assert len(type(batch).cat([batch, full])) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": [3]}, r"limits has shape \(1,\), there are 2 prefixes"),
        ({"seeds": torch.zeros(3, dtype=torch.long)}, r"seeds has shape \(3,\), there are 2 prefixes"),
        ({"limits": [3, 0]}, "a limit is 0; every response needs room for one token"),
        ({"copies": 0}, "copies must be a whole number of at least 1, got 0"),
        ({"rows": [[2, 3], []]}, "pass left-padded prefixes with tokens"),
        ({"rows": [[], []]}, "pass left-padded prefixes with tokens"),
    ],
)
def test_requests_that_do_not_fit_together_are_refused(policy, changes, message):
    request = {"rows": [[2, 3], [4]], "limits": [3, 3], **changes}
    with pytest.raises(UsageError, match=message):
        generate(policy, **request)


# --- the life of an engine --------------------------------------------------------------------------------------------


def test_every_response_carries_the_version_of_the_weights_that_drew_it(policy):
    engine = HuggingFaceRollout().build(policy)
    assert engine.version == -1
    asked = {"responses_per_prompt": 2, "sampling": Sampling(), "seeds": seeds_of(1)}
    assert draw_rollouts(engine, policy, prompts("12="), **asked).policy_version.tolist() == [-1, -1]
    engine.sync((), 7)
    assert draw_rollouts(engine, policy, prompts("12="), **asked).policy_version.tolist() == [7, 7]


def test_an_engine_that_shares_the_policys_module_does_not_gather_its_weights(policy):
    def weights():
        raise AssertionError("gathered")
        yield

    HuggingFaceRollout().build(policy).sync(weights(), 1)


def test_a_closed_engine_refuses_in_one_line(policy):
    with HuggingFaceRollout().build(policy) as engine:
        pass
    engine.close()  # a second time does nothing
    with pytest.raises(UsageError, match=r"the engine is closed; build a new one") as error:
        draw_rollouts(engine, policy, prompts("1="), responses_per_prompt=1, sampling=Sampling(), seeds=seeds_of(1))
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="the engine is closed"):
        engine.sync((), 1)


def test_an_engine_is_closed_where_its_block_fails(policy):
    engine = HuggingFaceRollout().build(policy)
    with pytest.raises(KeyError), engine:
        raise KeyError
    assert engine.closed


class Apart(Engine):
    """An engine with weights of its own, as one of another process has them."""

    def __init__(self, policy):
        self.inner = HuggingFaceEngine(copy.deepcopy(policy))

    def sync(self, weights, version):
        self.inner.policy.model.load_state_dict(dict(weights))
        self.inner.version = version

    def generate(self, ids, mask, limits, *, copies, sampling, seeds):
        return self.inner.generate(ids, mask, limits, copies=copies, sampling=sampling, seeds=seeds)

    def close(self):
        self.inner.close()


def test_an_engine_with_weights_of_its_own_draws_from_those_it_was_given(tiny_policy):
    policy = Policy.load(tiny_policy)
    asked = {"responses_per_prompt": 8, "sampling": Sampling(), "seeds": seeds_of(2)}
    with Apart(policy) as apart, HuggingFaceRollout().build(policy) as shared:
        before = said(draw_rollouts(apart, policy, prompts("12=", "9="), **asked))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(3.0)
        assert said(draw_rollouts(apart, policy, prompts("12=", "9="), **asked)) == before
        apart.sync(policy.model.state_dict().items(), 1)
        after = draw_rollouts(apart, policy, prompts("12=", "9="), **asked)
        assert said(after) == said(draw_rollouts(shared, policy, prompts("12=", "9="), **asked))
        assert said(after) != before
        assert set(after.policy_version.tolist()) == {1}


# --- responses --------------------------------------------------------------------------------------------------------


def responses(sampled, **fields):
    mask = torch.tensor(sampled, dtype=torch.bool)
    rows, shape = mask.shape[0], mask.shape
    given = {
        "ids": torch.ones(shape, dtype=torch.long),
        "mask": mask,
        "ended": torch.ones(rows, dtype=torch.bool),
        "log_probs": torch.full(shape, -1.0),
        "policy_version": torch.zeros(rows, dtype=torch.long),
    }
    return Responses(**{**given, **fields})


def test_widths_reach_the_last_sampled_token_over_holes():
    drawn = responses([[True, False, True, False], [False] * 4, [True] * 4])
    assert drawn.widths.tolist() == [3, 0, 4]
    assert responses([[], []]).widths.tolist() == [0, 0]


def test_pieces_of_different_widths_join():
    tops = {"top_ids": torch.ones(1, 2, 5, dtype=torch.long), "top_log_probs": torch.zeros(1, 2, 5)}
    narrow = responses([[True, True]], **tops)
    wide = responses([[True, False, False, True]], entropies=torch.ones(1, 4))
    joined = Responses.cat([narrow, wide])
    assert joined.mask.tolist() == [[True, True, False, False], [True, False, False, True]]
    assert joined.log_probs.tolist() == [[-1.0, -1.0, 0.0, 0.0], [-1.0] * 4]
    assert joined.entropies is None
    assert joined.top_ids is None
    assert Responses.cat([narrow, narrow]).top_ids.shape == (2, 2, 5)
    with pytest.raises(UsageError, match="needs at least one piece"):
        Responses.cat([])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"log_probs": torch.zeros(2, 3)}, r"log_probs has shape \(2, 3\), mask \(2, 4\); expected \(2, 4\)"),
        ({"ended": torch.zeros(3, dtype=torch.bool)}, r"ended has shape \(3,\), mask \(2, 4\); expected \(2,\)"),
        ({"policy_version": torch.zeros(2, 4, dtype=torch.long)}, r"policy_version has shape \(2, 4\)"),
        ({"top_ids": torch.zeros(2, 4, dtype=torch.long)}, r"top_ids has shape .*expected \(2, 4, '\*'\)"),
        ({"mask": torch.ones(2, 4)}, "mask must be a bool tensor"),
    ],
)
def test_responses_whose_shapes_do_not_fit_are_refused(fields, message, unchecked_shapes):
    with pytest.raises(UsageError, match=message):
        responses([[True] * 4] * 2, **fields)


# --- text by token ----------------------------------------------------------------------------------------------------


def test_pieces_join_to_the_response(policy):
    batch = rollouts(policy, prompts("583912=", "12="), n=8)
    for pieces, text, width in zip(
        decode_pieces(policy, batch), decode_responses(policy, batch), batch.widths.tolist(), strict=True
    ):
        assert "".join(pieces) == text
        assert len(pieces) == width


def test_responses_without_tokens_have_no_pieces(policy):
    batch = rollouts(policy, prompts("12="), n=2)
    empty = batch.replace(response_mask=torch.zeros_like(batch.response_mask))
    assert decode_responses(policy, empty) == ["", ""]
    assert decode_pieces(policy, empty) == [[], []]
    assert decode_pieces(policy, batch.select(torch.tensor([], dtype=torch.long))) == []


def test_tokens_beyond_the_width_are_not_decoded(policy):
    ids = torch.tensor([policy.tokenizer("123")["input_ids"]] * 2)
    assert decode(policy, ids, torch.tensor([2, 0])) == ["12", ""]


class Bytes:
    """A tokenizer whose tokens are bytes, so that one character may take several."""

    decoded = 0

    def decode(self, ids, skip_special_tokens=True):
        self.decoded += len(ids)
        return bytes(ids).decode("utf-8", errors="replace")

    def batch_decode(self, rows, skip_special_tokens=True):
        return [self.decode(row) for row in rows]


class Spaced(Bytes):
    """A tokenizer that leaves out a space at the beginning, and so decodes no token alone."""

    def decode(self, ids, skip_special_tokens=True):
        return super().decode(ids).removeprefix(" ")


def test_a_character_of_several_tokens_belongs_to_the_one_that_ends_it(unchecked_shapes):
    text = "aé→b"
    for split in (_by_prefixes, lambda policy, row: _by_context(policy, row, text)):
        pieces = split(SimpleNamespace(tokenizer=Bytes()), list(text.encode()))
        assert pieces == ["a", "", "é", "", "", "→", "b"]


@pytest.mark.parametrize("kind", [Bytes, Spaced])
def test_pieces_from_windows_are_those_from_prefixes(kind, unchecked_shapes):
    policy, draw = SimpleNamespace(tokenizer=kind()), random.Random(0)
    for length in list(range(12)) * 10:
        row = list("".join(draw.choices("ab é→\U0001f600", k=length)).encode())
        assert _by_context(policy, row, policy.tokenizer.decode(row)) == _by_prefixes(policy, row)


def test_pieces_take_time_linear_in_the_response(unchecked_shapes):
    policy, row = SimpleNamespace(tokenizer=Spaced()), list(("a é" * 200).encode())
    _by_context(policy, row, policy.tokenizer.decode(row))
    assert policy.tokenizer.decoded < 10 * len(row)


def test_a_text_that_windows_do_not_give_is_taken_from_its_prefixes(unchecked_shapes):
    policy = SimpleNamespace(tokenizer=Bytes())
    row = list(b"a\xff\xffb")  # bytes of no character
    assert "".join(_by_context(policy, row, policy.tokenizer.decode(row))) == policy.tokenizer.decode(row)
