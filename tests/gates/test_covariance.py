"""Gates by covariance: which tokens qualify, how many are chosen, and that content alone decides the choice."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.gates import (
    CovarianceGate,
    HighCovariance,
    clipped_tokens,
    covariance,
    covariance_gate,
    high_covariance,
)
from rl4llm.objectives import ppo_clip
from rl4llm.testing.reference.offpolicy import loop_covariance
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved

fractions = st.sampled_from([0.0, 0.002, 0.1, 0.3, 0.7])
bounds = st.sampled_from([(1.0, 5.0), (0.2, 2.0), (-1.0, math.inf), (-math.inf, math.inf), (40.0, 50.0)])


@st.composite
def pairs(draw, **options):
    """Log-probs, advantages and a mask."""
    mask = draw(masks(**options))
    return draw(tensors(tuple(mask.shape), -6.0, -0.01)), draw(tensors(tuple(mask.shape))), mask


def identified(pair):
    """The arguments of the random gate, for rows that no other row repeats."""
    log_probs, advantages, mask = pair
    uids = torch.arange(len(mask))
    return log_probs, advantages, uids, torch.ones(mask.shape, dtype=torch.long), mask


@given(pairs())
def test_covariance_equals_the_loop_and_sums_to_that_of_the_batch(case):
    log_probs, advantages, mask = case
    got = covariance(*case)
    torch.testing.assert_close(got, loop_covariance(*case), rtol=1e-9, atol=1e-9)
    if mask.sum() > 1:
        both = torch.stack([log_probs[mask], advantages[mask]])
        torch.testing.assert_close(got.sum(), both.cov(correction=0)[0, 1] * mask.sum(), rtol=1e-9, atol=1e-9)


@given(pairs(), st.floats(-3, 3), st.floats(-3, 3))
def test_covariance_does_not_see_constants(case, first, second):
    log_probs, advantages, mask = case
    shifted = covariance(log_probs + first - 3, advantages + second, mask)
    torch.testing.assert_close(shifted, covariance(*case), rtol=1e-9, atol=1e-9)


@given(pairs(max_batch=8, max_time=12), fractions, bounds, st.integers(0, 9))
def test_the_number_that_is_dropped_is_as_written_and_all_of_it_qualifies(case, fraction, limits, seed):
    mask, (low, high) = case[-1], limits
    covariances = loop_covariance(*case)
    assume(((covariances - low).abs() > 1e-9).all() and ((covariances - high).abs() > 1e-9).all())
    kept = covariance_gate(*identified(case), fraction=fraction, low=low, high=high, seed=seed)
    candidates = mask & (covariances > low) & (covariances < high)
    dropped = mask & ~kept
    wanted = max(1, int(round(1000 * fraction) * int(mask.sum()) // 1000)) if fraction else 0
    assert not (kept & ~mask).any()
    assert not (dropped & ~candidates).any()
    assert int(dropped.sum()) == min(wanted, int(candidates.sum()))


def test_the_numbers_of_four_tokens():
    # A − Ā = (3, −1, −1, −1), log π − mean = (1.5, 0.5, −0.5, −1.5): cov = (4.5, −0.5, 0.5, 1.5)
    log_probs, advantages = torch.tensor([[-1.0, -2.0, -3.0, -4.0]]), torch.tensor([[4.0, 0.0, 0.0, 0.0]])
    mask, uids, ids = torch.ones(1, 4, dtype=torch.bool), torch.tensor([3]), torch.tensor([[1, 2, 3, 4]])
    assert covariance(log_probs, advantages, mask).tolist() == [[4.5, -0.5, 0.5, 1.5]]
    arguments = (log_probs, advantages, uids, ids, mask)
    assert covariance_gate(*arguments, low=2.0).tolist() == [[False, True, True, True]]
    assert covariance_gate(*arguments, high=2.0).tolist() == [[True, True, True, False]]
    assert covariance_gate(*arguments, fraction=0.5).tolist() == [[False, True, True, False]]
    assert covariance_gate(*arguments, low=1.5, high=4.5).all()  # both ends are open
    assert covariance_gate(*arguments, fraction=0.0).all()
    assert high_covariance(log_probs, advantages, mask).tolist() == [[True, False, False, False]]
    assert high_covariance(log_probs, advantages, mask, fraction=0.5).tolist() == [[True, False, False, True]]
    assert high_covariance(log_probs, advantages, mask, fraction=0.75).tolist() == [[True, False, True, True]]


def test_where_a_row_stands_and_what_the_columns_beside_it_hold_do_not_matter():
    # Rows whose one candidate token is the same word of the same prompt, in responses that differ elsewhere.
    ids = torch.stack([torch.full((40,), 7), torch.arange(40), torch.arange(40)], dim=1)
    log_probs = torch.tensor([[-0.5, -3.0, -3.0]]).expand(40, 3)
    advantages = torch.tensor([[2.0, -1.0, -1.0]]).expand(40, 3)
    mask, uids = torch.ones(40, 3, dtype=torch.bool), torch.full((40,), 5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    kept = covariance_gate(log_probs, advantages, uids, ids, mask, fraction=0.1)
    assert int((mask & ~kept).sum()) == 12
    assert kept[:, 1:].all()
    moved = covariance_gate(log_probs, advantages, uids, ids[order], mask, fraction=0.1)
    assert torch.equal(moved, kept[order])


def test_seed_and_content_decide_and_the_global_state_does_not():
    case = (torch.full((60, 4), -1.0), torch.ones(60, 4), torch.ones(60, 4, dtype=torch.bool))
    log_probs, advantages, uids, ids, mask = identified(case)
    options = {"fraction": 0.5, "low": -1.0, "high": 1.0}
    state = torch.get_rng_state()
    kept = covariance_gate(log_probs, advantages, uids, ids, mask, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(covariance_gate(log_probs, advantages, uids, ids, mask, **options), kept)
    assert not torch.equal(covariance_gate(log_probs, advantages, uids, ids, mask, seed=1, **options), kept)
    other = ids.clone()
    other[-1, 0] = 2
    assert not torch.equal(covariance_gate(log_probs, advantages, uids, other, mask, **options)[:-1], kept[:-1])
    assert not torch.equal(covariance_gate(log_probs, advantages, uids + 1, ids, mask, **options), kept)


def test_every_candidate_is_as_likely_as_any_other():
    case = (torch.full((2, 5), -1.0), torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool))
    dropped = sum(
        (~covariance_gate(*identified(case), fraction=0.3, low=-1.0, high=1.0, seed=seed)).double()
        for seed in range(600)
    )
    # 3 of 10 in 600 draws: 180 each, standard deviation 11
    assert ((dropped - 180).abs() < 50).all()


@given(pairs(max_batch=8, max_time=12), fractions)
def test_the_largest_covariances_are_kept(case, fraction):
    mask, covariances = case[-1], loop_covariance(*case)
    kept = high_covariance(*case, fraction=fraction)
    count = int(mask.sum())
    assert not (kept & ~mask).any()
    if not count:
        return
    wanted = max(1, int(round(1000 * fraction) * count // 1000))
    border = covariances[mask].sort(descending=True).values[wanted - 1]
    assert kept[mask & (covariances > border + 1e-9)].all()
    assert not kept[mask & (covariances < border - 1e-9)].any()
    ties = int((mask & ((covariances - border).abs() <= 1e-9)).sum())
    assert wanted <= int(kept.sum()) + ties
    assert int(kept.sum()) >= (wanted if ties == 1 else 1)
    assert ties > 1 or int(kept.sum()) == wanted


def test_constant_advantages_keep_every_token():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]])
    assert torch.equal(high_covariance(log_probs, torch.ones(2, 3), mask), mask)


@given(rollouts())
def test_classes_read_the_log_probs_before_the_update(batch):
    tokens, mask = (batch.old_log_probs, batch.advantages), batch.response_mask
    part = CovarianceGate(fraction=0.4, low=-0.5, high=2.0, seed=3)
    contents = (batch.prompt_uids, batch.response_ids, mask)
    options = {"fraction": 0.4, "low": -0.5, "high": 2.0, "seed": 3}
    assert torch.equal(part(batch), covariance_gate(*tokens, *contents, **options))
    assert torch.equal(HighCovariance(0.4)(batch), high_covariance(*tokens, mask, fraction=0.4))
    for gate in (part, HighCovariance()):
        assert gate.reads == ("advantages",)
        with pytest.raises(UsageError, match=f"{type(gate).__name__} needs advantages"):
            gate(batch.replace(advantages=None))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CovarianceGate(fraction=1.0), r"CovarianceGate: fraction must be in \[0, 1\), got 1.0"),
        (lambda: CovarianceGate(low=5.0), "CovarianceGate: low must be below high, got low=5.0 and high=5.0"),
        (lambda: CovarianceGate(clip_low=-0.1), r"CovarianceGate: clip_low must be in \[0, inf\], got -0.1"),
        (lambda: CovarianceGate(clip_high=-0.1), r"CovarianceGate: clip_high must be in \[0, inf\], got -0.1"),
        (lambda: CovarianceGate(seed=-1), "CovarianceGate: seed must be a whole number of at least 0"),
        (lambda: HighCovariance(fraction=1.0), r"HighCovariance: fraction must be in \[0, 1\), got 1.0"),
    ],
)
def test_values_are_checked_at_construction(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_shapes_are_checked(unchecked_shapes):
    x, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"covariance: advantages has shape \(2, 1\), response_mask \(2, 3\)"):
        covariance(x, x[:, :1], mask)
    with pytest.raises(UsageError, match=r"covariance_gate: prompt_uids has shape \(3,\), response_mask \(2, 3\)"):
        covariance_gate(x, x, torch.arange(3), x.long(), mask)
    with pytest.raises(UsageError, match=r"covariance_gate: response_ids has shape"):
        covariance_gate(x, x, torch.arange(2), x[:, :1].long(), mask)


# --- tokens that the objective has clipped --------------------------------------------------------------------------


@given(rollouts(), st.sampled_from([0.0, 0.2, 0.8]), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_token_is_clipped_where_the_objective_has_no_gradient(batch, low, high):
    old, mask = batch.old_log_probs, batch.response_mask
    advantages = (4 * batch.advantages).round() / 4  # some are exactly 0, some between 0 and 1
    log_probs = moved(old, 0.5 * batch.values).requires_grad_()
    clipped = clipped_tokens(log_probs, old, advantages, mask, clip_low=low, clip_high=high)
    ppo_clip(log_probs, old, advantages, mask, clip_low=low, clip_high=high).sum().backward()
    ratio = (log_probs - old).exp()
    at_edge = ((ratio - 1 - high).abs() < 1e-9) | ((ratio - 1 + low).abs() < 1e-9)
    live = mask & (advantages != 0) & ~at_edge
    assert torch.equal(clipped[live], log_probs.grad[live] == 0)
    assert not clipped[~mask | (advantages == 0)].any()


def test_a_ratio_at_the_edge_is_not_clipped():
    log_probs, old, mask = torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert not clipped_tokens(log_probs, old, torch.tensor([[1.0, -1.0]]), mask, clip_low=0.0, clip_high=0.0).any()


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ({}, [True, False, False, False]),
        ({"clip_high": 5.0}, [False, False, False, False]),
        ({"clip_low": 0.2}, [True, False, False, True]),
        ({"clip_low": 0.2, "clip_high": 0.2}, [True, True, False, True]),
    ],
)
def test_a_clipped_token_is_no_candidate(widths, expected):
    """All covariances qualify, so that what stays is what was clipped."""
    log_probs = torch.tensor([[3.0, 1.5, 1.0, 0.5]]).log() - 2
    old, advantages = torch.full((1, 4), -2.0), torch.tensor([[1.0, 1.0, 1.0, -1.0]])
    mask, uids, ids = torch.ones(1, 4, dtype=torch.bool), torch.tensor([3]), torch.tensor([[1, 2, 3, 4]])
    options = {"fraction": 0.99, "low": -math.inf, "high": math.inf}
    kept = covariance_gate(log_probs, advantages, uids, ids, mask, old_log_probs=old, **options, **widths)
    assert (~kept).sum() == min(3, 4 - sum(expected))
    assert kept[0][torch.tensor(expected)].all()
    assert covariance_gate(log_probs, advantages, uids, ids, mask, **options, **widths).sum() == 1


@given(rollouts(max_batch=5, max_time=5))
def test_the_component_compares_with_the_policy_that_drew(batch):
    """A token whose probability has grown tenfold is clipped where its advantage is positive, and so no candidate."""
    batch = batch.replace(old_log_probs=batch.old_log_probs - math.log(10))
    grown = batch.replace(present_log_probs=batch.old_log_probs + math.log(10))
    gate = CovarianceGate(fraction=0.99, low=-math.inf, high=math.inf)
    kept, candidates = gate(grown), batch.response_mask & (batch.advantages <= 0)
    assert kept[batch.response_mask & (batch.advantages > 0)].all()
    dropped = max(1, 99 * int(batch.lengths.sum()) // 100)
    assert (batch.response_mask & ~kept).sum() == min(candidates.sum(), dropped)
    wider = replace(gate, clip_high=10.0)(grown)
    assert (batch.response_mask & ~wider).sum() == min(batch.lengths.sum(), dropped)
    fallen = batch.replace(present_log_probs=batch.old_log_probs - math.log(10))
    kept = replace(gate, clip_low=0.5)(fallen)
    assert kept[batch.response_mask & (batch.advantages < 0)].all()
    assert (batch.response_mask & ~gate(fallen)).sum() == min(batch.lengths.sum(), dropped)


def test_high_covariance_of_one_token_keeps_it():
    mask = torch.tensor([[True, False]])
    assert torch.equal(high_covariance(torch.zeros(1, 2), torch.zeros(1, 2), mask, fraction=0.0), mask)


@pytest.mark.parametrize("name", ["log_probs", "advantages"])
def test_shapes_of_clipped_tokens_are_checked(unchecked_shapes, name):
    x, mask = -torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    given = {"log_probs": x, "old_log_probs": x, "advantages": x} | {name: x[:, :1]}
    with pytest.raises(UsageError, match=rf"^clipped_tokens: {name} has shape \(2, 1\), response_mask \(2, 3\)"):
        clipped_tokens(**given, response_mask=mask)
    with pytest.raises(UsageError, match=r"^clipped_tokens: clip_low must be in \[0, inf\], got -1"):
        clipped_tokens(x, x, x, mask, clip_low=-1.0)
    with pytest.raises(UsageError, match=r"^covariance_gate: clip_high must be in \[0, inf\], got -1"):
        covariance_gate(x, x, torch.arange(2), x.long(), mask, clip_high=-1.0)
