"""Laws of the division of responses among critics."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import group_shards, learns_from, prompt_shards, random_shards, shared_shards
from rl4llm.groups import dense_group_ids
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import group_ids

ALL = [group_shards, prompt_shards, random_shards, shared_shards]


@st.composite
def shardable(draw, equal_sizes=False):
    """Ids of groups of at least M responses each, in any order and with arbitrary labels, and M."""
    critics, groups = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    size = draw(st.integers(critics, 9))
    sizes = [size if equal_sizes else draw(st.integers(critics, 9)) for _ in range(groups)]
    labels = draw(st.permutations(range(-3, 20)))
    ids = [labels[group] for group, members in enumerate(sizes) for _ in range(members)]
    return torch.tensor(draw(st.permutations(ids))), critics


def counts(shards, critics):
    return [int((shards == critic).sum()) for critic in range(critics)]


@given(shardable())
def test_group_shards_equal_the_reference(drawn):
    ids, critics = drawn
    assert torch.equal(group_shards(ids, critics), reference.group_shards(ids, critics))


@given(st.integers(0, 12).flatmap(group_ids), st.integers(1, 4))
def test_prompt_shards_equal_the_reference_and_keep_groups_whole(ids, critics):
    shards = prompt_shards(ids, critics)
    assert torch.equal(shards, reference.prompt_shards(ids, critics))
    assert all(len(set(shards[ids == label].tolist())) == 1 for label in ids.unique())


@given(shardable())
def test_the_shards_are_disjoint_and_cover_every_response(drawn):
    ids, critics = drawn
    for shards in (group_shards(ids, critics), prompt_shards(ids, critics)):
        assert torch.equal(sum(learns_from(shards, c).long() for c in range(critics)), torch.ones_like(ids))


@given(shardable())
def test_every_critic_sees_every_group_in_parts_that_differ_by_at_most_one(drawn):
    ids, critics = drawn
    shards = group_shards(ids, critics)
    for label in ids.unique():
        parts = counts(shards[ids == label], critics)
        assert min(parts) >= 1
        assert max(parts) - min(parts) <= 1


@given(shardable(equal_sizes=True))
def test_no_critic_is_favoured_over_groups_of_equal_size(drawn):
    ids, critics = drawn
    totals = counts(group_shards(ids, critics), critics)
    assert max(totals) - min(totals) <= 1


@given(st.integers(1, 12).flatmap(group_ids), st.integers(1, 4))
def test_prompt_shards_are_dealt_evenly(ids, critics):
    groups = Counter(int(prompt_shards(ids, critics)[ids == label][0]) for label in ids.unique())
    dealt = [groups[critic] for critic in range(critics)]
    assert max(dealt) - min(dealt) <= 1


@given(shardable())
def test_labels_do_not_matter(drawn):
    ids, critics = drawn
    for function in ALL:
        assert torch.equal(function(ids, critics), function(100 - 7 * ids, critics))
        assert torch.equal(function(ids, critics), function(dense_group_ids(ids)[0], critics))


@given(st.integers(0, 6).flatmap(group_ids), st.integers(1, 4))
def test_shared_shards_let_every_critic_learn_from_every_row(ids, critics):
    shards = shared_shards(ids, critics)
    assert (shards == -1).all()
    assert all(learns_from(shards, critic).all() for critic in range(critics))


@pytest.mark.parametrize("function", ALL)
def test_they_give_one_long_per_row_and_mutate_nothing(function):
    for dtype in (torch.int32, torch.int64):
        ids = torch.tensor([4, 4, 1, 1], dtype=dtype)
        shards = function(ids, 2)
        assert shards.dtype == torch.int64
        assert shards.shape == ids.shape
        assert ids.tolist() == [4, 4, 1, 1]
        assert function(ids[:0], 2).shape == (0,)


def test_fewer_responses_than_critics_is_an_error_that_says_what_to_do():
    with pytest.raises(UsageError, match=r"more critics than responses per prompt: 3 critics.*2 responses.*'prompt'"):
        group_shards(torch.tensor([0, 0, 0, 1, 1]), 3)
    assert prompt_shards(torch.tensor([0, 0, 0, 1, 1]), 3).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("function", ALL)
def test_wrong_ids_and_counts_are_errors(function, unchecked_shapes):
    name = function.__name__
    with pytest.raises(UsageError, match=f"{name}: num_critics must be a whole number of at least 1, got 0"):
        function(torch.tensor([0, 0]), 0)
    with pytest.raises(UsageError, match=f"{name}: group_ids has shape .2, 2."):
        function(torch.zeros(2, 2, dtype=torch.long), 1)
    with pytest.raises(UsageError, match=f"{name}: group_ids must hold integers"):
        function(torch.zeros(2), 1)


def test_learns_from_refuses_what_is_no_critic(unchecked_shapes):
    with pytest.raises(UsageError, match="learns_from: critic must be a whole number of at least 0, got -1"):
        learns_from(torch.tensor([0, 1]), -1)
    with pytest.raises(UsageError, match="learns_from: shards has shape"):
        learns_from(torch.tensor([[0, 1]]), 0)


@given(st.integers(0, 40), st.integers(1, 5))
def test_random_shards_are_even_over_the_batch_and_the_same_every_time(rows, critics):
    ids = torch.arange(rows) // 4
    shards = random_shards(ids, critics)
    counts = torch.bincount(shards, minlength=critics)
    assert len(counts) == critics
    assert counts.max() - counts.min() <= 1
    assert torch.equal(shards, random_shards(ids, critics))
    assert torch.equal(shards, random_shards(torch.zeros_like(ids), critics)), "prompts have no say"


def test_random_shards_may_give_a_whole_prompt_to_one_critic():
    shards = random_shards(torch.arange(400) // 2, 2).reshape(200, 2)
    alone = (shards[:, 0] == shards[:, 1]).float().mean()
    assert 0.35 < alone < 0.65  # group_shards: 0; standard deviation 0.035
