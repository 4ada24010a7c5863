"""Any cut gives the gradient of the whole batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.algorithms import accumulate_gradients, cut_by_tokens
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.microbatches import loss_counts
from rl4llm.batch import PolicyOutput
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import ConstantNorm, PPOClip, Reinforce, SequenceMean, SequenceSum, TokenMean
from rl4llm.regularizers import EntropyBonus, KLPenalty
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import stretched

AGGREGATORS = [TokenMean(), SequenceMean(), SequenceSum(), ConstantNorm(max_tokens=7)]


@pytest.fixture(scope="module")
def policy():
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "head_size": 8}
    return Policy(*TinyQwen3(**sizes).build()).double()


@given(rollouts(max_batch=6), st.integers(1, 40))
def test_a_cut_holds_every_row_once_and_keeps_the_budget(batch, budget):
    pieces = list(cut_by_tokens(batch, budget))
    assert sorted(torch.cat(pieces).tolist()) == list(range(len(batch)))
    for rows in pieces:
        piece = batch.select(rows).trim()
        tokens = len(piece) * (piece.prompt_mask.shape[1] + piece.response_mask.shape[1])
        assert tokens <= budget or len(piece) == 1


def run_tokens(batch, pieces):
    """Tokens of the passes of a model that shares prompts, padding included."""
    total = 0
    for rows in pieces:
        piece = batch.select(rows).trim()
        prompts, steps = piece.prompt_mask.shape[1], piece.response_mask.shape[1]
        total += len(piece.group_ids.unique()) * prompts + len(piece) * steps
    return total


@given(rollouts(max_batch=8), st.integers(1, 40), st.booleans())
def test_where_prompts_are_shared_the_budget_is_of_what_runs_and_the_cheaper_order_is_taken(batch, budget, whole):
    pieces = cut_by_tokens(batch, budget, whole_groups=whole, shared=True)
    assert sorted(torch.cat(pieces).tolist()) == list(range(len(batch)))
    for rows in pieces:
        alone = len(batch.group_ids[rows].unique()) == 1 if whole else len(rows) == 1
        assert run_tokens(batch, [rows]) <= budget or alone
    by_width = cut_by_tokens(batch.replace(group_ids=torch.arange(len(batch))), budget)
    if not whole:
        assert run_tokens(batch, pieces) <= run_tokens(batch, by_width)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [(100, [[0, 2], [3, 1]]), (1, [[0, 3], [2, 1]])],
    ids=["long prompts stand together", "long responses stand together"],
)
def test_which_rows_stand_together_is_decided_by_the_tokens_that_run(prompt, expected):
    batch = stretched([1, 20, 19, 2], [5, 7, 5, 7], prompt)
    pieces = cut_by_tokens(batch, prompt + 41, shared=True)
    assert [rows.tolist() for rows in pieces] == expected


def test_prompts_whose_responses_are_equally_long_are_not_mixed():
    pieces = cut_by_tokens(stretched([20] * 4, [5, 7, 5, 7], 100), 141, shared=True)
    assert [rows.tolist() for rows in pieces] == [[0, 2], [1, 3]]


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
@given(batch=rollouts(max_batch=5, max_time=6), budget=st.integers(1, 60), shared=st.booleans())
@settings(max_examples=15)
def test_any_cut_into_microbatches_gives_the_whole_batch_gradient(policy, aggregator, batch, budget, shared):
    objective, regularizers = PPOClip(), [EntropyBonus(0.1), KLPenalty(0.1)]

    def losses(rows):
        output = policy(rows, asks=("entropies",))
        terms = [objective(output, rows), *(part(output, rows) for part in regularizers)]
        return [*terms, terms[0].sum(-1)]  # and a loss a response

    def gradient(max_tokens, shared=False):
        policy.zero_grad()
        loss = accumulate_gradients(batch, losses, aggregator, max_tokens=max_tokens, shared=shared)
        return loss, [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    loss, whole = gradient(10**6)
    cut_loss, cut = gradient(budget, shared)
    torch.testing.assert_close(loss.double(), cut_loss.double(), rtol=1e-6, atol=1e-6)
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + float(a.abs().max())))


@given(rollouts(max_batch=6, max_time=5), st.integers(1, 4))
def test_simulated_ranks_with_summed_counts_give_the_update_of_one_rank(batch, ranks):
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def losses(rows):
        output = PolicyOutput(log_probs=rows.rollout_log_probs.double() * weight)
        return [Reinforce()(output, rows)]

    aggregator = TokenMean()
    accumulate_gradients(batch, losses, aggregator, max_tokens=1000)
    whole, weight.grad = weight.grad, None
    shards = [batch.select(torch.arange(len(batch)) % ranks == rank) for rank in range(ranks)]
    each = [loss_counts(aggregator, shard.response_mask) for shard in shards]
    counts = {axes: sum(count[axes] for count in each) for axes in (1, 2)}
    for shard in shards:
        accumulate_gradients(shard, losses, aggregator, max_tokens=1000, counts=counts)
    torch.testing.assert_close(weight.grad, whole, rtol=1e-10, atol=1e-10)


def test_meter_weighs_by_tokens_not_by_microbatch():
    meter = Meter()
    meter.add("x", torch.tensor([1.0, 1.0, 1.0]))
    meter.add("x", torch.tensor([5.0, float("nan")]), torch.tensor([True, False]))
    meter.add("none", torch.tensor([1.0]), torch.tensor([False]))
    means = meter.means()
    assert means["x"] == 2.0
    assert "none" not in means
