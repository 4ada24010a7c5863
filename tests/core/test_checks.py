"""Every check says in one line who complains, what came and what to do; and lets through what is right."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import (
    UsageError,
    check_at_least,
    check_choice,
    check_critic_values,
    check_fraction,
    check_group_tensors,
    check_interval,
    check_mask,
    check_ndim,
    check_response_tensors,
    check_same_shape,
    check_token_tensors,
)

MASK = torch.ones(2, 3, dtype=torch.bool)
NUMBERS = torch.zeros(2, 3)

WRONG = [
    (
        lambda: check_same_shape("f", first=torch.zeros(2), second=torch.zeros(3)),
        "f: second has shape (3,), first (2,); pass one entry per response token.",
    ),
    (
        lambda: check_same_shape("f", a=torch.zeros(2), b=torch.zeros(2, 1), remedy="mend it"),
        "f: b has shape (2, 1), a (2,); mend it.",
    ),
    (
        lambda: check_ndim("f", 1, axes="batch", x=NUMBERS),
        "f: x has shape (2, 3); expected 1 axes: batch.",
    ),
    (lambda: check_mask("f", m=NUMBERS), "f: m must be a bool tensor, got torch.float32; pass m.bool()."),
    (lambda: check_mask("f", ok=MASK, m=MASK.long()), "f: m must be a bool tensor, got torch.int64; pass m.bool()."),
    (
        lambda: check_token_tensors("f", MASK.float()),
        "f: response_mask must be a bool tensor, got torch.float32; pass response_mask.bool().",
    ),
    (lambda: check_token_tensors("f", MASK[0]), "f: response_mask has shape (3,); expected 2 axes: batch time."),
    (
        lambda: check_token_tensors("f", MASK, x=NUMBERS[:1]),
        "f: x has shape (1, 3), response_mask (2, 3); pass one entry per response token.",
    ),
    (
        lambda: check_token_tensors("f", MASK, remedy="mend it", x=NUMBERS[:, :1]),
        "f: x has shape (2, 1), response_mask (2, 3); mend it.",
    ),
    (lambda: check_group_tensors("f", MASK.long()), "f: group_ids has shape (2, 3); expected 1 axes: batch."),
    (
        lambda: check_group_tensors("f", torch.zeros(2)),
        "f: group_ids must hold integers, got torch.float32; pass group_ids.long().",
    ),
    (
        lambda: check_group_tensors("f", MASK[0]),
        "f: group_ids must hold integers, got torch.bool; pass group_ids.long().",
    ),
    (
        lambda: check_group_tensors("f", torch.tensor([0, 1]), x=torch.zeros(3)),
        "f: x has shape (3,), group_ids (2,); pass one entry per response.",
    ),
    (
        lambda: check_response_tensors("f", MASK, x=torch.zeros(3)),
        "f: x has shape (3,), response_mask (2, 3); pass one entry per response.",
    ),
    (
        lambda: check_critic_values("f", NUMBERS, MASK),
        "f: critic_values has shape (2, 3), response_mask (2, 3); expected (critic, *response_mask.shape): "
        "stack the critics' values along a first axis.",
    ),
    (lambda: check_interval("f", 0.0, 1.0, x=1.5), "f: x must be in [0, 1], got 1.5."),
    (lambda: check_interval("f", 0.0, 1.0, x="0.5"), "f: x must be a number in [0, 1], got '0.5'."),
    (lambda: check_at_least("f", 1, n="2"), "f: n must be a whole number of at least 1, got '2'."),
    (lambda: check_at_least("f", 1, n=[2]), "f: n must be a whole number of at least 1, got [2]."),
    (lambda: check_at_least("f", 1, n=math.inf), "f: n must be a whole number of at least 1, got inf."),
    (
        lambda: check_token_tensors("f", MASK, rewards=torch.zeros(2)),
        "f: rewards has shape (2,), response_mask (2, 3); place one score per response at its last token: "
        "rl4llm.batch.place_scores(scores, response_mask).",
    ),
    (lambda: check_interval("f", 0.0, 1.0, "()", ok=0.5, none=None, x=0.0), "f: x must be in (0, 1), got 0.0."),
    (lambda: check_interval("f", 0.0, x=-1), "f: x must be in [0, inf], got -1."),
    (lambda: check_interval("f", x=math.nan), "f: x must be in [-inf, inf], got nan."),
    (lambda: check_fraction("f", x=1.0), "f: x must be in [0, 1), got 1.0."),
    (lambda: check_at_least("f", 2, ok=2, none=None, n=1), "f: n must be a whole number of at least 2, got 1."),
    (lambda: check_at_least("f", 1, n=1.5), "f: n must be a whole number of at least 1, got 1.5."),
    (lambda: check_at_least("f", 0, n=True), "f: n must be a whole number of at least 0, got True."),
    (lambda: check_choice("f", {"a": 1, "b": 2}, ok="a", x="c"), "f: x must be one of 'a', 'b', got 'c'."),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message.partition(";")[0] for _, message in WRONG])
def test_a_wrong_argument_is_one_line_that_names_it(unchecked_shapes, call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == message
    assert "\n" not in message


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (2, 2, 4), (2, 3, 3), (1, 1, 2, 3)])
def test_critic_values_are_a_stack_of_at_least_one(shape):
    with pytest.raises(UsageError, match="critic_values has shape"):
        check_critic_values("f", torch.zeros(shape), MASK)


def test_what_is_right_passes():
    check_same_shape("f", b=NUMBERS, c=NUMBERS)
    check_ndim("f", 2, axes="batch time", x=NUMBERS)
    check_mask("f", m=MASK)
    check_token_tensors("f", MASK, x=NUMBERS)
    check_group_tensors("f", torch.tensor([3, -1]), x=torch.zeros(2))
    check_critic_values("f", NUMBERS[None], MASK)
    check_at_least("f", 1, a=1, b=2, c=None)
    check_choice("f", ["a"], x="a")
    check_fraction("f", x=0.0)


@given(st.floats(), st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(["[]", "[)", "(]", "()"]))
def test_an_interval_holds_its_ends_as_its_brackets_say(x, low, high, ends):
    inside = (low <= x if ends[0] == "[" else low < x) and (x <= high if ends[1] == "]" else x < high)
    if inside:
        check_interval("f", low, high, ends, x=x)
    else:
        with pytest.raises(UsageError, match="x must be in"):
            check_interval("f", low, high, ends, x=x)


@pytest.mark.parametrize("ends", ["[]", "[)", "(]", "()"])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_each_end_of_an_interval_stands_for_itself(x, ends):
    allowed = ends[int(x)] in "[]"
    if allowed:
        check_interval("f", 0.0, 1.0, ends, x=x)
    else:
        with pytest.raises(UsageError):
            check_interval("f", 0.0, 1.0, ends, x=x)


def test_a_usage_error_is_a_value_error():
    assert issubclass(UsageError, ValueError)
