"""Laws of the shared core: which tokens are the smallest share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.gates import drop_smallest, random_gate
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import masks, tensors

fractions = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 0.9, 0.99]), st.integers(0, 99).map(lambda n: n / 100))


@st.composite
def ranked(draw):
    """Numbers, often tied, sometimes infinite or NaN, and a mask over them."""
    mask = draw(masks(max_batch=6, max_time=12))
    x = draw(tensors(mask.shape))
    if draw(st.booleans()):
        x = x.masked_fill(draw(tensors(mask.shape)) > 2.5, torch.nan).masked_fill(
            draw(tensors(mask.shape)) < -2.5, -torch.inf
        )
    return x, mask


@given(ranked(), fractions)
def test_it_equals_the_reference(case, fraction):
    assert torch.equal(drop_smallest(*case, fraction), reference.drop_smallest(*case, fraction))


@given(masks(max_batch=10, max_time=10), fractions, st.integers(0, 99))
def test_without_ties_exactly_the_share_is_dropped(mask, fraction, seed):
    x = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed)).double().reshape(mask.shape)
    kept = drop_smallest(x, mask, fraction)
    n = int(mask.sum())
    assert int((mask & ~kept).sum()) == int(round(100 * fraction) * n // 100)
    if kept.any() and (mask & ~kept).any():
        assert x[mask & ~kept].max() < x[kept].min()


@given(ranked(), fractions)
def test_a_tie_at_the_border_is_kept_whole(case, fraction):
    x, mask = case
    kept = drop_smallest(x, mask, fraction)
    assert (kept & ~mask).sum() == 0
    if kept.any() and (mask & ~kept).any():
        assert x[mask & ~kept].max() < x[kept].nan_to_num(torch.inf).min()
    assert torch.equal(drop_smallest(torch.zeros_like(x), mask, fraction), mask)


@given(ranked(), fractions, fractions)
def test_a_larger_fraction_keeps_a_subset(case, first, second):
    small, large = sorted([first, second])
    assert not (drop_smallest(*case, large) & ~drop_smallest(*case, small)).any()


@given(ranked())
def test_fraction_zero_is_the_identity_and_no_fraction_drops_everything(case):
    mask = case[1]
    assert torch.equal(drop_smallest(*case, 0.0), mask)
    assert drop_smallest(*case, 1 - 1e-16).any() == mask.any()


@pytest.mark.parametrize(("fraction", "dropped"), [(0.29, 29), (0.57, 57), (1 - 0.9, 10), (0.1 + 0.2, 30), (0.299, 29)])
def test_a_decimal_fraction_counts_as_written(fraction, dropped):
    # 0.29 · 100 = 28.999999999999996 and (1 − 0.9) · 100 = 9.999999999999998 in binary
    x = torch.arange(100.0).reshape(4, 25)
    assert int((~drop_smallest(x, torch.ones_like(x, dtype=torch.bool), fraction)).sum()) == dropped


def test_a_nan_at_a_trained_token_is_kept_like_the_largest():
    x = torch.tensor([[torch.nan, 1.0, 2.0, torch.inf]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert drop_smallest(x, mask, 0.25).tolist() == [[True, False, True, True]]
    assert drop_smallest(x, mask, 0.75).tolist() == [[True, False, False, True]]


def test_it_ranks_beyond_bf16_and_takes_integers():
    x = torch.tensor([[3, 1, 2]])
    assert drop_smallest(x, torch.ones(1, 3, dtype=torch.bool), 0.4).tolist() == [[True, False, True]]


def test_the_result_is_a_new_tensor():
    mask = torch.ones(1, 3, dtype=torch.bool)
    drop_smallest(torch.zeros(1, 3), mask, 0.0).zero_()
    assert mask.all()


def test_its_errors_name_the_caller(unchecked_shapes):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"drop_smallest: x has shape \(2, 1\), response_mask \(2, 3\)"):
        drop_smallest(x[:, :1], mask, 0.2)
    with pytest.raises(UsageError, match=r"mine: fraction must be in \[0, 1\), got 1.0"):
        drop_smallest(x, mask, 1.0, by="mine")


@settings(max_examples=25)
@given(masks(max_batch=6, max_time=12), st.integers(0, 5))
def test_random_gates_differ_by_seed_and_by_batch_but_not_by_the_global_state(mask, seed):
    mask = torch.cat(
        [mask, torch.ones_like(mask[:1]).expand(40, -1)]
    )  # enough tokens that a coincidence is out of reach
    uids, ids = torch.arange(len(mask)), torch.ones(mask.shape, dtype=torch.long)
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    gate = random_gate(uids, ids, mask, fraction=0.5, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(seed + 1)
    assert torch.equal(random_gate(uids, ids, mask, fraction=0.5, seed=seed), gate)
    assert not torch.equal(random_gate(uids, ids, mask, fraction=0.5, seed=seed + 1), gate)
    other = ids.clone()
    other[-1, 0] = 2
    assert not torch.equal(random_gate(uids, other, mask, fraction=0.5, seed=seed)[:-1], gate[:-1])


def test_a_random_gate_is_random_over_positions_and_identical_rows():
    mask, ids = torch.ones(400, 10, dtype=torch.bool), torch.ones(400, 10, dtype=torch.long)
    kept = random_gate(torch.zeros(400, dtype=torch.long), ids, mask, fraction=0.2)
    assert int(kept.sum()) == 3200
    # 400 draws a column at p = 0.8: standard deviation 0.02; 10 draws a row: 0.126
    assert ((kept.double().mean(0) - 0.8).abs() < 0.09).all()
    assert kept.double().mean(1).std() == pytest.approx(0.126, abs=0.03)
