"""Statistics of groups equal loops over their members, in any order and under any label."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.groups import (
    dense_group_ids,
    group_count,
    group_max,
    group_mean,
    group_sum,
    position_in_group,
    varies_in_group,
)
from rl4llm.testing.strategies import group_ids, tensors


@st.composite
def cases(draw):
    batch = draw(st.integers(0, 8))
    ids = draw(group_ids(batch))
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=batch, max_size=batch)), dtype=torch.bool)
    x = draw(tensors((batch,)))
    return torch.where(mask, x, torch.nan), ids, mask


def members(x, ids, mask, row):
    """Counted values of the row's group."""
    drawn = zip(x.tolist(), ids.tolist(), mask.tolist(), strict=True)
    return [value for value, group, counted in drawn if counted and group == ids[row].item()]


def each(x, ids, mask, function):
    return torch.tensor([function(members(x, ids, mask, row)) for row in range(len(x))], dtype=torch.float64)


FUNCTIONS = [
    (group_sum, sum),
    (group_max, lambda group: max(group, default=float("-inf"))),
    (group_mean, lambda group: sum(group) / len(group) if group else 0.0),
    (lambda x, ids, mask: group_count(ids, mask).double(), lambda group: float(len(group))),
]


@pytest.mark.parametrize(("function", "of_members"), FUNCTIONS, ids=["sum", "max", "mean", "count"])
@given(case=cases())
def test_a_statistic_of_a_group_is_that_of_its_counted_members(function, of_members, case):
    torch.testing.assert_close(function(*case), each(*case, of_members))


@given(cases())
def test_a_group_varies_if_two_counted_members_differ(case):
    x, ids, mask = case
    expected = [bool(mask[row]) and len(set(members(x, ids, mask, row))) > 1 for row in range(len(x))]
    assert varies_in_group(x, ids, mask).tolist() == expected


@given(st.integers(2, 9), st.floats(-1e4, 1e4, width=32))
def test_equal_numbers_never_vary(count, value):
    x, ids = torch.full((count,), value), torch.zeros(count, dtype=torch.long)
    assert not varies_in_group(x, ids, torch.ones(count, dtype=torch.bool)).any()


@given(cases())
def test_dense_ids_count_groups_by_first_appearance(case):
    _, ids, _ = case
    seen = list(dict.fromkeys(ids.tolist()))
    dense, count = dense_group_ids(ids)
    assert count == len(seen)
    assert dense.tolist() == [seen.index(ident) for ident in ids.tolist()]


@given(cases())
def test_the_position_in_a_group_counts_the_earlier_rows_of_it(case):
    _, ids, _ = case
    listed = ids.tolist()
    assert position_in_group(ids).tolist() == [listed[:row].count(ident) for row, ident in enumerate(listed)]


@pytest.mark.parametrize("function", [f for f, _ in FUNCTIONS] + [varies_in_group])
@given(case=cases(), random=st.randoms(use_true_random=False), shift=st.integers(-50, 50))
def test_rows_may_be_permuted_and_groups_renumbered(function, case, random, shift):
    x, ids, mask = case
    order = list(range(len(x)))
    random.shuffle(order)
    result = function(x, ids, mask)
    torch.testing.assert_close(function(x[order], shift - 2 * ids[order], mask[order]), result[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.long, torch.float32])
def test_statistics_are_taken_in_float32_or_wider(unchecked_shapes, dtype):
    x, ids, mask = torch.ones(600).to(dtype), torch.zeros(600, dtype=torch.long), torch.ones(600, dtype=torch.bool)
    total = group_sum(x, ids, mask)
    assert total.dtype == group_max(x, ids, mask).dtype == group_mean(x, ids, mask).dtype == torch.float32
    assert total[0] == 600
    assert group_count(ids, mask)[0] == 600
