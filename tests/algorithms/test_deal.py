"""Dealing: no row is lost, ranks take equal work, and nothing depends on how many ranks there are."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.algorithms import Runtime, Updates, compose, deal, map_dealt
from rl4llm.algorithms.deal import Dealt, balanced, in_runs, map_rows
from rl4llm.algorithms.microbatches import Averaging
from rl4llm.algorithms.runtime import RankError, share
from rl4llm.checks import UsageError
from rl4llm.groups import dense_group_ids
from rl4llm.objectives import SequenceMean, TokenMean
from rl4llm.randomness import generator
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import critic_slots, run, stretched

RANKS = st.integers(1, 4)


@given(st.integers(0, 30), RANKS)
def test_shares_are_contiguous_and_differ_by_at_most_one(count, ranks):
    shares = [share(count, rank, ranks) for rank in range(ranks)]
    assert [place for one in shares for place in one] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.integers(0, 50), max_size=20), RANKS)
def test_no_rank_carries_more_than_another_and_one_unit(tokens, ranks):
    rank_of = balanced(tokens, ranks)
    loads = [sum(t for t, r in zip(tokens, rank_of.tolist(), strict=True) if r == rank) for rank in range(ranks)]
    assert max(loads) - min(loads) <= max(tokens, default=0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), RANKS)
def test_runs_are_contiguous_and_no_end_is_further_than_a_unit_from_its_place(tokens, ranks):
    rank_of = in_runs(torch.tensor(tokens), ranks).tolist()
    assert rank_of == sorted(rank_of)
    assert set(rank_of) <= set(range(ranks))
    for rank in range(ranks - 1):
        done = sum(t for t, r in zip(tokens, rank_of, strict=True) if r <= rank)
        assert abs(done - (rank + 1) * sum(tokens) / ranks) <= max(tokens)


@given(batch=rollouts(max_batch=8), ranks=RANKS, whole=st.booleans())
def test_where_prompts_are_shared_a_rank_has_neighbouring_responses(batch, ranks, whole):
    dealt = Dealt(batch, ranks, whole, shared=True)
    rank_of = torch.zeros(len(batch), dtype=torch.long)
    for rank, rows in enumerate(dealt.shares):
        rank_of[rows] = rank
    assert sorted(torch.cat(dealt.shares).tolist()) == list(range(len(batch)))
    groups = dense_group_ids(batch.group_ids)[0]
    runs = [rank_of[groups == group].tolist() for group in groups.unique().tolist()]
    assert [rank for run in runs for rank in run] == sorted(rank for run in runs for rank in run)
    assert not whole or all(len(set(run)) == 1 for run in runs)


def test_a_prompt_that_ranks_share_is_counted_once():
    """Two prompts of 8 tokens; 2 and 6 responses of a token each: 10 and 14 tokens, so the second rank gets the six."""
    batch = stretched([1] * 8, [0, 0, *[1] * 6], prompt=8)
    assert [rows.tolist() for rows in Dealt(batch, 2, shared=True).shares] == [[0, 1], [2, 3, 4, 5, 6, 7]]


@given(batch=rollouts(max_batch=8), minibatches=st.integers(1, 4), shuffle=st.sampled_from(["prompts", "responses"]))
def test_every_pass_has_all_rows_once_in_parts_of_equal_size(batch, minibatches, shuffle):
    groups = dense_group_ids(batch.group_ids)[0]
    updates = Updates(epochs=2, minibatches=minibatches, shuffle=shuffle)
    parts = list(updates.cut(groups, generator("deal", 0)))
    passes = parts[:minibatches], parts[minibatches:]
    for one in passes:
        assert sorted(torch.cat(one).tolist()) == list(range(len(batch)))
        assert max(map(len, one)) - min(map(len, one)) <= 1


def test_prompts_stay_together_and_both_they_and_their_responses_are_shuffled():
    groups, random = torch.arange(16) // 4, generator("deal", 0)
    orders = [torch.cat(list(Updates(minibatches=3, shuffle="prompts").cut(groups, random))) for _ in range(5)]
    for order in orders:
        assert (groups[order].diff() != 0).sum() == 3
    assert len({tuple(groups[order].tolist()) for order in orders}) > 1
    assert len({tuple(order[groups[order] == 2].tolist()) for order in orders}) > 1
    alone = torch.cat(list(Updates(minibatches=3, shuffle="responses").cut(groups, random)))
    assert (groups[alone].diff() != 0).sum() > 3


@pytest.mark.parametrize(("prompt", "expected"), [(2048, 4096), (2049, 4098)])
def test_the_budget_fits_the_device_and_the_longest_prompt_unless_it_is_given(prompt, expected):
    batch = stretched([1, 2], [0, 1], prompt)
    assert Updates().budget(batch) == Updates().budget(batch.select(torch.tensor([0]))) == expected
    assert Updates().budget(batch.select(torch.tensor([], dtype=torch.long))) == 4096
    elsewhere = batch.to(torch.device("meta"))
    object.__setattr__(elsewhere, "prompt_mask", batch.prompt_mask)  # its numbers are read
    assert Updates().budget(elsewhere) == 16384
    assert Updates(microbatch_tokens=7).budget(batch) == 7


@given(batch=rollouts(max_batch=7), ranks=RANKS, whole=st.booleans())
def test_every_row_goes_to_one_rank_and_groups_stay_together_when_asked(batch, ranks, whole):
    dealt = Dealt(batch, ranks, whole)
    assert sorted(torch.cat(dealt.shares).tolist()) == list(range(len(batch)))
    if whole:
        owners = {}
        for rank, rows in enumerate(dealt.shares):
            for group in batch.group_ids[rows].tolist():
                assert owners.setdefault(group, rank) == rank


@given(batch=rollouts(max_batch=7), ranks=RANKS, budget=st.integers(1, 60))
def test_every_rank_runs_the_same_number_of_passes_and_idle_ones_train_nothing(batch, ranks, budget):
    dealt = Dealt(batch.replace(gates=batch.response_mask[None]), ranks)
    passes = [list(dealt.pieces(rank, budget)) for rank in range(ranks)]
    assert len({len(one) for one in passes}) == 1
    rows = torch.cat([indices for one in passes for indices, _ in one]) if len(batch) else torch.zeros(0)
    assert sorted(rows.tolist()) == list(range(len(batch)))
    for one in passes:
        for indices, piece in one:
            assert len(piece) == max(1, len(indices))
            assert len(indices) or not (piece.response_mask.any() or piece.gates.any())


@given(batch=rollouts(max_batch=7), ranks=RANKS, minibatches=st.integers(1, 4), whole=st.booleans())
def test_minibatches_and_their_normalizers_do_not_depend_on_the_number_of_ranks(batch, ranks, minibatches, whole):
    updates, averaging = Updates(epochs=2, minibatches=minibatches), Averaging((SequenceMean(),))

    def dealt(world):
        random = generator("deal", 0)
        return list(deal(batch, updates, averaging, generator=random, world_size=world, whole_groups=whole))

    for one, many in zip(dealt(1), dealt(ranks), strict=True):
        assert torch.equal(one.rows.response_ids, many.rows.response_ids)
        assert [{k: float(v) for k, v in term.items()} for term in one.counts] == [
            {k: float(v) for k, v in term.items()} for term in many.counts
        ]


@given(rollouts(max_batch=6, critics=2), st.integers(1, 40))
def test_mapping_over_microbatches_equals_the_whole_batch(batch, budget):
    def function(rows):
        return torch.where(rows.response_mask, rows.critic_values, 0.0)

    torch.testing.assert_close(map_dealt(Runtime(), function, batch, budget), function(batch))


@given(rollouts(critics=2))
def test_mapping_an_all_masked_batch_keeps_its_shape(batch):
    batch = batch.replace(response_mask=torch.zeros_like(batch.response_mask))
    values = map_dealt(Runtime(), lambda rows: rows.critic_values.double(), batch, 100)
    assert values.shape == batch.critic_values.shape


@given(batch=rollouts(max_batch=6, critics=2), ranks=st.integers(2, 3), budget=st.integers(1, 40))
@settings(max_examples=40)
def test_ranks_that_gather_have_the_whole_result(batch, ranks, budget):
    """Ranks one after another: the first pass records what each would send, the second hands out all of it."""

    def function(rows):
        return torch.where(rows.response_mask, rows.rollout_log_probs, 0.0)

    sent = []
    for rank in range(ranks):
        record = Runtime(rank=rank, world_size=ranks, gather=lambda own: (sent.append(own), [own] * 1)[1])
        map_dealt(record, function, batch, budget)
    for rank in range(ranks):
        whole = map_dealt(Runtime(rank=rank, world_size=ranks, gather=lambda own: sent), function, batch, budget)
        torch.testing.assert_close(whole, function(batch))


@given(batch=rollouts(max_batch=6), ranks=st.integers(1, 3), budget=st.integers(1, 40))
@settings(max_examples=40)
def test_one_result_per_row_is_shared_out_likewise(batch, ranks, budget):
    def function(rows):
        return torch.stack([rows.prompt_uids, rows.response_mask.sum(-1)], -1)[:, :, None]

    sent = []
    for rank in range(ranks):
        map_rows(
            Runtime(rank=rank, world_size=ranks, gather=lambda own: sent.append(own) or [own]), function, batch, budget
        )
    for rank in range(ranks):
        whole = map_rows(Runtime(rank=rank, world_size=ranks, gather=lambda own: sent), function, batch, budget)
        assert torch.equal(whole, function(batch))


def fail(error):
    raise error


def test_a_failure_on_one_rank_is_the_same_error_on_all():
    seen = []
    there = Runtime(rank=1, world_size=2, gather=lambda own: seen.append(own) or [(True, 1, ""), own])
    here = Runtime(rank=0, world_size=2, gather=lambda own: [own, seen[-1]])
    for error, kind, message in (
        (UsageError("the reward is gone"), UsageError, "the reward is gone"),
        (ZeroDivisionError("a bug"), RankError, "rank 1 failed: ZeroDivisionError: a bug"),
    ):
        with pytest.raises(type(error), match=str(error)):  # where it happened it keeps its traceback
            there.together(lambda error=error: fail(error))
        with pytest.raises(UsageError) as caught:
            here.together(lambda: 1)
        assert (type(caught.value), str(caught.value)) == (kind, message)


@given(batch=rollouts(max_batch=5), ranks=RANKS)
def test_counts_are_those_of_the_whole_minibatch(batch, ranks):
    (only,) = deal(batch, Updates(minibatches=1), Averaging((TokenMean(),)), generator=generator("x"), world_size=ranks)
    assert int(only.counts[0][2]) == max(int(batch.response_mask.sum()), 0)


def test_minibatches_know_whether_the_model_shares_prompts(tiny_policy, tiny_critic, monkeypatch):
    module, dealt = compose(tiny_policy, **critic_slots(tiny_critic)), []
    for place in ("policy_gradient", "learn"):
        target = sys.modules[f"rl4llm.algorithms.{place}"]
        monkeypatch.setattr(target, "deal", lambda *a, **k: dealt.append(k["shared"]) or deal(*a, **k))
    run(module, steps=1)
    assert dealt == [True, True, True]  # the policy and two critics
    module.critics.critics[1].backbone.gradient_checkpointing_enable()
    module.policy.model.gradient_checkpointing_enable()
    with pytest.warns(UserWarning, match="recomputes activations"):
        assert not module.critics.shares_prompts
    with pytest.warns(UserWarning, match="recomputes activations"):
        assert not module.policy.shares_prompts
