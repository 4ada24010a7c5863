"""REBEL: differences of log-ratios against differences of scores, within a group."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.advantages import leave_one_out
from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import REBEL, PolicyObjective, rebel, reinforce
from rl4llm.testing.reference.regression import TokenTree, loop_rebel_pairs
from rl4llm.testing.strategies import group_ids, masks, rollouts, scores, tensors
from tests.log_probs import moved, random_log_probs

ETAS = st.sampled_from([0.5, 1.0, 3.0])


@st.composite
def groups(draw, unscorable=True):
    """Log-probs, those of the snapshot nearby, scores, group ids and mask."""
    mask = draw(masks())
    log_probs = draw(tensors(tuple(mask.shape), -6.0, -0.01))
    old = moved(log_probs, 0.3 * draw(tensors(tuple(mask.shape))))
    return [log_probs, old, draw(scores(len(mask), unscorable)), draw(group_ids(len(mask))), mask]


def gradient(function, log_probs):
    log_probs = log_probs.clone().requires_grad_()
    return torch.autograd.grad(function(log_probs), log_probs)[0]


def counted(r, mask):
    return mask.any(-1) & ~r.isnan()


@given(groups(), ETAS)
def test_the_losses_of_a_group_sum_to_its_pairs(drawn, eta):
    loss = rebel(*drawn, eta=eta)
    for group, total in loop_rebel_pairs(*drawn, eta=eta).items():
        torch.testing.assert_close(loss[drawn[3] == group].sum(), total, rtol=1e-9, atol=1e-9)


@given(groups(), ETAS)
def test_the_gradient_is_that_of_the_pairs_and_the_closed_form(drawn, eta):
    log_probs, *others = drawn
    got = gradient(lambda x: rebel(x, *others, eta=eta).sum(), log_probs)
    old, r, ids, mask = others
    there = counted(r, mask)
    gap = torch.where(there, torch.where(mask, log_probs - old, 0.0).sum(-1) / eta - r, 0.0)
    expected = torch.zeros_like(log_probs)
    for row in there.nonzero()[:, 0].tolist():
        mine = there & (ids == ids[row])
        expected[row] = 2 / eta * (mine.sum() * gap[row] - gap[mine].sum())
    expected = torch.where(mask, expected, 0.0)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-8)
    pairs = gradient(lambda x: sum(loop_rebel_pairs(x, *others, eta=eta).values()) + 0 * x.sum(), log_probs)
    torch.testing.assert_close(got, pairs, rtol=1e-9, atol=1e-8)


@given(groups(), ETAS)
def test_each_response_carries_its_own_squared_deviation_times_the_size_of_the_group(drawn, eta):
    log_probs, old, r, ids, mask = drawn
    there = counted(r, mask)
    gap = torch.where(mask, log_probs - old, 0.0).sum(-1) / eta - r
    loss = rebel(*drawn, eta=eta)
    for row in range(len(r)):
        mine = gap[there & (ids == ids[row])]
        expected = len(mine) * (gap[row] - mine.mean()) ** 2 if there[row] else torch.zeros(())
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
        if len(mine) == 1 or not there[row]:
            assert loss[row] == 0


@given(groups(unscorable=False), ETAS, st.floats(-3.0, 3.0))
def test_a_shift_of_the_scores_of_a_prompt_changes_nothing(drawn, eta, shift):
    log_probs, old, _, ids, mask = drawn
    r = torch.linspace(-1.0, 1.0, len(ids), dtype=torch.float64)
    moved = r + shift * ids  # each group its own shift
    first, second = (rebel(log_probs, old, x, ids, mask, eta=eta) for x in (r, moved))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@given(groups(), ETAS, st.randoms(use_true_random=False))
def test_the_order_of_responses_does_not_matter(drawn, eta, random):
    order = torch.tensor(random.sample(range(len(drawn[2])), len(drawn[2])))
    torch.testing.assert_close(
        rebel(*(x[order] for x in drawn), eta=eta), rebel(*drawn, eta=eta)[order], rtol=1e-9, atol=1e-9
    )


@given(st.integers(0, 2**31), ETAS)
def test_the_loss_vanishes_at_the_tilted_snapshot(seed, eta):
    tree = TokenTree()
    generator = torch.Generator().manual_seed(seed)
    old_logits = torch.randn(len(tree.prefixes), tree.vocabulary, dtype=torch.float64, generator=generator)
    r = torch.rand(len(tree.responses), dtype=torch.float64, generator=generator)
    tilted = tree.soft_optimal_q(old_logits, r, beta=1 / eta)  # π ∝ π_old exp(η r), all logits of the tree exact
    ids, mask = torch.zeros(len(r), dtype=torch.long), tree.tokens()[2]
    loss = rebel(tree.log_probs(tilted), tree.log_probs(old_logits), r, ids, mask, eta=eta)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-20)
    ratio = torch.where(mask, tree.log_probs(tilted) - tree.log_probs(old_logits), 0.0).sum(-1)
    other = rebel(tree.log_probs(tilted), tree.log_probs(old_logits), r, ids, mask, eta=2 * eta)
    assert other.sum() > 0.01 * (ratio / eta).var()


@given(groups(unscorable=False), ETAS)
def test_the_first_step_follows_the_leave_one_out_policy_gradient(drawn, eta):
    log_probs, _, r, ids, mask = drawn
    mask = mask | (torch.arange(mask.shape[1]) == 0)  # an empty response has no part in a group here
    got = gradient(lambda x: rebel(x, log_probs, r, ids, mask, eta=eta).sum(), log_probs)
    advantages = leave_one_out(r, ids)
    size = (ids[:, None] == ids).sum(-1)
    weights = 2 / eta * (size - 1) * advantages  # K (r − r̄) = (K − 1) · leave-one-out; 2/η · 1 for a pair
    expected = gradient(lambda x: reinforce(x, weights[:, None].expand(mask.shape), mask).sum(), log_probs)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


def test_a_pair_with_equal_scores_is_pulled_together_and_rests_at_the_snapshot():
    log_probs, old = torch.tensor([[-1.0], [-2.0]], dtype=torch.float64), torch.full((2, 1), -1.5, dtype=torch.float64)
    r, ids, mask = (
        torch.ones(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.long),
        torch.ones(2, 1, dtype=torch.bool),
    )
    assert gradient(lambda x: rebel(x, old, r, ids, mask).sum(), log_probs).flatten().tolist() == [2.0, -2.0]
    assert not gradient(lambda x: rebel(x, old, r, ids, mask).sum(), old).any()
    assert rebel(log_probs, old, r, ids, mask, eta=0.5).tolist() == [2.0, 2.0]  # half of (1 / 0.5)² each


@given(groups(), st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_masked_positions_and_unscorable_responses_are_inert(drawn, garbage):
    log_probs, old, r, ids, mask = drawn
    gradients = []
    for clean in (True, False):
        x, y = (z if clean else z.masked_fill(~mask, garbage) for z in (log_probs, old))
        x, scores = (z.clone().requires_grad_() for z in (x, r))
        loss = rebel(x, y, scores, ids, mask)
        loss.sum().backward()
        assert scores.grad is None
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    there = counted(r, mask)
    assert not gradients[0][~mask | ~there[:, None]].any()
    alone = rebel(log_probs[there], old[there], r[there], ids[there], mask[there])
    torch.testing.assert_close(loss[there].detach(), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_formed_in_float32_and_given_back_in_the_inputs_dtype(dtype):
    log_probs, mask = torch.full((2, 1000), -1.0, dtype=dtype), torch.ones(2, 1000, dtype=torch.bool)
    old = torch.tensor([[-1.01], [-1.0]]).expand(2, 1000)
    loss = rebel(log_probs, old, torch.zeros(2), torch.zeros(2, dtype=torch.long), mask)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.float(), torch.tensor([50.0, 50.0]), rtol=5e-3, atol=0)


def test_autograd_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x, old = random_log_probs(2, 4, 3, generator=generator)
    r, ids = torch.randn(4, dtype=torch.float64, generator=generator), torch.tensor([5, 2, 5, 5])
    mask = torch.rand(4, 3, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: rebel(x, old, r, ids, mask, eta=0.7), x.requires_grad_())


@given(rollouts())
def test_a_component_reads_the_whole_outcome_and_asks_for_whole_groups(batch):
    batch = batch.replace(rewards=batch.rewards + 0.25)  # shaping counts
    expected = rebel(
        batch.ref_log_probs, batch.old_log_probs, batch.outcomes, batch.group_ids, batch.response_mask, eta=0.3
    )
    component = REBEL(eta=0.3)
    assert torch.equal(component(PolicyOutput(batch.ref_log_probs), batch.replace(advantages=None)), expected)
    assert component.reads == component.asks == ()
    assert component.level == "response"
    assert component.whole_groups
    assert component.smallest_group == 2
    assert not PolicyObjective.whole_groups
    assert eval(repr(component)) == pickle.loads(pickle.dumps(component)) == component


def test_wrong_options_and_shapes_are_one_line(unchecked_shapes):
    x, mask, r = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2)
    ids = torch.zeros(2, dtype=torch.long)
    for eta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"REBEL: eta must be in \(0, inf\)"):
            REBEL(eta=eta)
        with pytest.raises(UsageError, match=r"rebel: eta must be in \(0, inf\)"):
            rebel(x, x, r, ids, mask, eta=eta)
    with pytest.raises(UsageError, match=r"rebel: scores has shape \(2, 1\), response_mask \(2, 3\)"):
        rebel(x, x, r[:, None], ids, mask)
    with pytest.raises(UsageError, match=r"rebel: group_ids has shape \(1,\), response_mask \(2, 3\)"):
        rebel(x, x, r, ids[:1], mask)
    with pytest.raises(UsageError, match=r"rebel: group_ids must hold integers, got torch.float32"):
        rebel(x, x, r, ids.float(), mask)
