"""The cache of responses: the same keys and values as a plain one, whatever parts or leaves, with room or without."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, Gemma3TextConfig, Qwen2Config
from transformers.cache_utils import DynamicSlidingWindowLayer

from rl4llm.rollouts import cache
from rl4llm.rollouts.cache import ResponseCache, RoomyLayer, closed_up

MOST_ROWS = 12
SMALL = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1}


@given(st.lists(st.integers(0, 30), max_size=30))
def test_every_row_has_one_place_and_as_few_as_possible_are_copied(sources):
    order = closed_up(sources)
    assert sorted(order) == list(range(len(sources)))
    copied = sum(sources[new] != place for place, new in enumerate(order))
    assert copied == len(sources) - len({source for source in sources if source < len(sources)})


steps = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 5)),
    st.tuples(st.just("take"), st.lists(st.integers(0, 99), min_size=1, max_size=MOST_ROWS)),
)


@given(st.integers(1, 3), st.integers(1, 4), st.lists(steps, max_size=12), st.integers(1, 7))
def test_a_cache_with_room_holds_what_a_plain_one_holds(rows, width, actions, room):
    random = torch.Generator().manual_seed(0)

    def states():
        return torch.randn(2, rows, 2, columns, 3, generator=random)

    config = Qwen2Config(**SMALL, num_hidden_layers=1)
    most = width + sum(number for action, number in actions if action == "add")
    roomy, plain = ResponseCache(config, columns=most, rows=MOST_ROWS), DynamicCache(config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOM", room)
        for action, wanted in [("add", width), *actions]:
            if action == "add":
                columns = wanted
                new = states()
                seen = [one.update(*new, 0) for one in (roomy, plain)]
                assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
            else:
                sources = [source % rows for source in wanted]
                sources = [sources[new] for new in closed_up(sources)]
                roomy.take_rows(sources, torch.device("cpu"))
                plain.batch_select_indices(torch.tensor(sources))
                rows = len(sources)
        own, expected = roomy.layers[0], plain.layers[0]
        assert torch.equal(own.keys, expected.keys)
        assert torch.equal(own.values, expected.values)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert own.room[0].shape[0] <= MOST_ROWS
        assert own.room[0].shape[2] <= most | 1


def parted(rows):
    """A layer of one prompt of five tokens, of which so many rows have been made."""
    layer = RoomyLayer(30, rows)
    layer.update(*torch.randn(2, 1, 2, 5, 3))
    layer.take_rows(torch.arange(1, rows), torch.zeros(rows - 1).long(), rows)
    return layer


def test_adding_a_token_copies_nothing_that_is_there():
    layer, places = parted(4), set()
    for _ in range(25):
        layer.update(*torch.randn(2, 4, 2, 1, 3))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 1


def test_room_does_not_grow_beyond_the_longest_response_and_the_rows():
    assert all(whole.shape == (4, 2, 31, 3) for whole in parted(4).room)


def test_more_columns_bring_no_more_rows_than_there_are():
    layer = RoomyLayer(300, 64)
    layer.update(*torch.randn(2, 8, 2, 5, 3))
    layer.update(*torch.randn(2, 8, 2, 200, 3))
    assert len(layer.room[0]) == 8


def test_rows_that_part_one_by_one_are_seldom_moved():
    layer = RoomyLayer(30, 64)
    layer.update(*torch.randn(2, 1, 2, 5, 3))
    places = set()
    for rows in range(2, 65):
        layer.take_rows(torch.tensor([rows - 1]), torch.tensor([0]), rows)
        places.add(layer.room[0].data_ptr())
    assert len(places) <= 6  # the room doubles


def test_layers_of_another_kind_stay_those_of_transformers():
    config = Gemma3TextConfig(**SMALL, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    kinds = [type(layer) for layer in ResponseCache(config, columns=8, rows=1).layers]
    assert kinds == [DynamicSlidingWindowLayer, RoomyLayer]
    whole = ResponseCache(Qwen2Config(**SMALL, num_hidden_layers=1), columns=8, rows=1)
    assert [type(layer) for layer in whole.layers] == [RoomyLayer]


def test_a_cache_of_padded_prompts_says_how_wide_the_mask_of_the_next_token_is():
    kept = ResponseCache(Qwen2Config(**SMALL, num_hidden_layers=1), columns=9, rows=2)
    kept.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
    assert kept.get_max_cache_shape() == -1  # no limit
    kept.padded = True
    assert kept.get_max_cache_shape() == 4
