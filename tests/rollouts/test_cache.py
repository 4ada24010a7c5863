"""The cache of responses: the same keys and values as a plain one, whatever leaves, however much room there is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, Qwen2Config
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rl4llm.rollouts import cache
from rl4llm.rollouts.cache import ResponseCache, RoomyLayer, closed_up

SMALL = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1}


@given(st.lists(st.booleans(), max_size=30))
def test_rows_that_go_on_are_kept_and_as_few_as_possible_move(going):
    kept = closed_up(going)
    assert sorted(kept) == [row for row, on in enumerate(going) if on]
    moved = [row for place, row in enumerate(kept) if row != place]
    assert sorted(moved) == [row for row in range(len(kept), len(going)) if going[row]]


steps = st.one_of(st.tuples(st.just("add"), st.integers(1, 5)), st.tuples(st.just("keep"), st.integers(0, 2**16)))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.lists(steps, max_size=12), st.integers(1, 7))
def test_a_layer_with_room_holds_what_a_plain_layer_holds(prompts, copies, width, actions, room):
    random = torch.Generator().manual_seed(0)

    def states(rows, columns):
        return torch.randn(2, rows, 2, columns, 3, generator=random)

    most = width + sum(number for action, number in actions if action == "add")
    roomy, plain, rows = RoomyLayer(most), DynamicLayer(), prompts * copies
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOM", room)
        first = states(prompts, width)
        for layer in (roomy, plain):
            layer.update(*first)
            layer.batch_repeat_interleave(copies)
        for action, number in actions:
            if action == "add":
                new = states(rows, number)
                seen = [layer.update(*new) for layer in (roomy, plain)]
                assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
            else:
                kept = closed_up([bool(number >> row & 1) for row in range(rows)]) or [0]
                moved = [place for place, row in enumerate(kept) if place != row]
                roomy.move_rows(torch.tensor(moved).long(), torch.tensor(kept)[moved], len(kept))
                plain.batch_select_indices(torch.tensor(kept))
                rows = len(kept)
        assert torch.equal(roomy.keys, plain.keys)
        assert torch.equal(roomy.values, plain.values)
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_adding_a_token_copies_nothing_that_is_there():
    layer = RoomyLayer(30)
    layer.update(*torch.randn(2, 1, 2, 5, 3))
    layer.batch_repeat_interleave(4)
    places = set()
    for _ in range(25):
        layer.update(*torch.randn(2, 4, 2, 1, 3))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 1


def test_room_does_not_grow_beyond_the_longest_response():
    layer = RoomyLayer(30)
    layer.update(*torch.randn(2, 1, 2, 5, 3))
    layer.batch_repeat_interleave(4)
    assert all(whole.shape[-2] <= 31 for whole in layer.room)


def test_layers_of_another_kind_stay_those_of_transformers():
    config = Gemma3TextConfig(**SMALL, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    kinds = [type(layer) for layer in ResponseCache(config, 8).layers]
    assert kinds == [DynamicSlidingWindowLayer, RoomyLayer]
    assert [type(layer) for layer in ResponseCache(Qwen2Config(**SMALL, num_hidden_layers=1), 8).layers] == [RoomyLayer]


def test_a_cache_of_padded_prompts_says_how_wide_the_mask_of_the_next_token_is():
    kept = ResponseCache(Qwen2Config(**SMALL, num_hidden_layers=1), columns=9)
    kept.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
    assert kept.get_max_cache_shape() == -1  # no limit
    kept.padded = True
    assert kept.get_max_cache_shape() == 4
