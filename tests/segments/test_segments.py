"""The contract of every segmenter, and where each cuts."""

import dataclasses
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.segments import (
    FixedTokens,
    Newline,
    Segmenter,
    Sentence,
    consecutive_segments,
    fixed_token_segments,
    newline_segments,
    segment_starts,
    sentence_segments,
)
from rl4llm.testing.reference import values as reference
from rl4llm.testing.strategies import masks, tensors

SEGMENTERS = [Newline(), Sentence(), FixedTokens(), FixedTokens(tokens=2), FixedTokens(tokens=1)]
each = pytest.mark.parametrize("segmenter", SEGMENTERS, ids=repr)
piece = st.one_of(
    st.sampled_from(
        ["", "\n", "\n\n", " ", ". ", ".", "! ", "?", " a", "it.", "e.g.", "a\nb", "1.5", "1. ", "\n2.", "word"]
    ),
    st.text("aB 1.!?\n", max_size=4),
)


@st.composite
def cases(draw):
    """Pieces of every response, as long as its mask needs or longer, and the mask."""
    mask = draw(masks(max_batch=3))
    pieces = []
    for row in mask:
        needed = int(row.nonzero().max()) + 1 if row.any() else 0
        length = draw(st.integers(needed, len(row)))
        pieces.append(draw(st.lists(piece, min_size=length, max_size=length)))
    return pieces, mask


def ids_of(segmenter, *pieces):
    """Ids of one response that is trained throughout."""
    return segmenter([list(pieces)], torch.ones(1, len(pieces), dtype=torch.bool))[0].tolist()


def pieces_of(text):
    """One token a character."""
    return [*text]


def steps(segmenter, text):
    """The text of each step."""
    ids = ids_of(segmenter, *pieces_of(text))
    return ["".join(c for c, i in zip(text, ids, strict=True) if i == step) for step in range(max(ids, default=-1) + 1)]


def test_every_segmenter_is_a_value_with_a_paper():
    assert {type(segmenter) for segmenter in SEGMENTERS} == set(Segmenter.__subclasses__())
    for segmenter in SEGMENTERS:
        assert dataclasses.is_dataclass(segmenter)
        assert segmenter.__dataclass_params__.frozen
        assert pickle.loads(pickle.dumps(segmenter)) == segmenter
        assert eval(repr(segmenter), {type(segmenter).__name__: type(segmenter)}) == segmenter
        assert segmenter.paper
        assert hash(segmenter) == hash(dataclasses.replace(segmenter))


@each
@given(cases())
def test_ids_count_up_from_zero_over_the_trained_tokens(segmenter, case):
    pieces, mask = case
    before = mask.clone()
    ids = segmenter(pieces, mask)
    assert ids.shape == mask.shape
    assert ids.dtype == torch.long
    assert not ids[~mask].any()
    assert torch.equal(mask, before)
    for row in range(len(mask)):
        trained = ids[row, mask[row]].tolist()
        assert trained[:1] in ([], [0])
        assert all(b - a in (0, 1) for a, b in pairwise(trained))


@each
@settings(max_examples=30)
@given(cases(), st.integers(1, 3))
def test_rows_permute_and_padding_is_inert(segmenter, case, extra):
    pieces, mask = case
    ids = segmenter(pieces, mask)
    assert torch.equal(segmenter(pieces[::-1], mask.flip(0)), ids.flip(0))
    wider = segmenter(pieces, torch.nn.functional.pad(mask, (0, extra)))
    assert torch.equal(wider, torch.nn.functional.pad(ids, (0, extra)))


@given(cases())
@example(([["a", ".", "", "\nb"]], torch.ones(1, 4, dtype=torch.bool)))
def test_text_segments_equal_the_reference(case):
    assert torch.equal(newline_segments(*case), reference.text_segments(*case, reference.lines))
    assert torch.equal(sentence_segments(*case), reference.text_segments(*case, reference.sentences))


@given(masks(), st.integers(1, 5))
def test_fixed_segments_equal_the_reference(mask, tokens):
    assert torch.equal(fixed_token_segments(mask, tokens=tokens), reference.fixed_token_segments(mask, tokens))
    assert torch.equal(FixedTokens(tokens=tokens)([[]] * len(mask), mask), fixed_token_segments(mask, tokens=tokens))


@given(st.text("aB 1.!?\n", min_size=1, max_size=30))
def test_the_steps_of_a_text_join_to_it(text):
    for segmenter in (Newline(), Sentence()):
        assert "".join(steps(segmenter, text)) == text
        assert all(step.strip() for step in steps(segmenter, text)) or not text.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo\nthree", ["one", "\ntwo", "\nthree"]),
        ("\n\none\ntwo\n\n", ["\n\none", "\ntwo\n\n"]),
        ("one\n \n\ntwo", ["one", "\n \n\ntwo"]),
        (" \n ", [" \n "]),
        ("one. two", ["one. two"]),
    ],
)
def test_newlines_open_the_line_that_follows(text, expected):
    assert steps(Newline(), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is odd. Two is not! Why? Because.", ["One is odd.", " Two is not!", " Why?", " Because."]),
        ("Pi is 3.14. So", ["Pi is 3.14.", " So"]),
        ("See e.g. the sum, i.e. Dr. Who. Next", ["See e.g. the sum, i.e. Dr. Who.", " Next"]),
        (
            "It has been done.\n2. Now this\n10. And that. End",
            ["It has been done.", "\n2. Now this", "\n10. And that.", " End"],
        ),
        ("100. is a number. 7. too", ["100.", " is a number.", " 7.", " too"]),
        ("line one\nline two", ["line one", "\nline two"]),
        ("end.  \n\n", ["end.  \n\n"]),
        ("wait... what", ["wait...", " what"]),
        ("x_a. y", ["x_a.", " y"]),
    ],
)
def test_sentences_end_at_marks_that_white_space_follows(text, expected):
    assert steps(Sentence(), text) == expected


def test_a_token_belongs_where_its_first_character_does():
    assert ids_of(Newline(), "a", "b\nc", "d", "\ne", "f") == [0, 0, 1, 2, 2]
    assert ids_of(Newline(), "a\n", "b", "\n\n", "c", "") == [0, 1, 2, 2, 2]
    assert ids_of(Newline(), "", "\n", "") == [0, 0, 0]


def test_masked_tokens_open_no_step_but_their_text_counts():
    mask = torch.tensor([[True, False, False, True, True]])
    assert newline_segments([["a", "\nb", "\nc", "d", "\ne"]], mask).tolist() == [[0, 0, 0, 1, 2]]
    assert newline_segments([["a", "b", "\nc", "d", "e"]], ~mask).tolist() == [[0, 0, 1, 0, 0]]
    assert fixed_token_segments(mask, tokens=2).tolist() == [[0, 0, 0, 0, 1]]


@given(masks(), st.data())
def test_starts_and_renumbering_step_over_masked_tokens(mask, data):
    ids = data.draw(tensors(tuple(mask.shape), 0.0, 2.0)).round().long().cumsum(-1)
    starts, dense = segment_starts(ids, mask), consecutive_segments(ids, mask)
    for row, trained in enumerate(mask.tolist()):
        columns = [t for t, m in enumerate(trained) if m]
        values = ids[row, columns].tolist()
        opens = [i == 0 or values[i] != values[i - 1] for i in range(len(values))]
        assert starts[row, columns].tolist() == opens
        assert dense[row, columns].tolist() == [sum(opens[: i + 1]) - 1 for i in range(len(values))]
    assert not starts[~mask].any()
    assert not dense[~mask].any()
    assert torch.equal(segment_starts(ids.masked_fill(~mask, -5), mask), starts)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([["a"]], "1 lists of pieces for 2 responses; pass one list a response"),
        ([["a"], ["a", "b"]], "response 0 has 1 pieces of text, trained tokens up to column 2 of 2"),
        ([["a", "b"], ["a", "b", "c"]], "response 1 has 3 pieces of text"),
    ],
)
def test_pieces_must_fit_the_mask(pieces, message):
    for segmenter in (newline_segments, sentence_segments):
        with pytest.raises(UsageError, match=f"{segmenter.__name__}: {message}"):
            segmenter(pieces, torch.ones(2, 2, dtype=torch.bool))


def test_masks_and_options_are_checked(unchecked_shapes):
    for segmenter in SEGMENTERS:
        with pytest.raises(UsageError, match="response_mask must be a bool tensor"):
            segmenter([["a"]], torch.ones(1, 1))
    for build in (FixedTokens, lambda tokens: fixed_token_segments(torch.ones(1, 1).bool(), tokens=tokens)):
        with pytest.raises(UsageError, match="tokens must be a whole number of at least 1, got 0"):
            build(tokens=0)
    with pytest.raises(UsageError, match=r"segment_starts: segment_ids has shape \(1, 2\), response_mask \(1, 1\)"):
        segment_starts(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 1).bool())
