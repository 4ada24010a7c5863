"""The loss of an optimizer step depends neither on how it is cut nor on which ranks hold it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GroupRelative
from rl4llm.algorithms import (
    Averaging,
    Composition,
    Credit,
    Guards,
    Learner,
    Loss,
    Rollout,
    Runtime,
    Updates,
    accumulate_gradients,
    deal,
    improve,
)
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.groups import dense_group_ids
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import ConstantNorm, PPOClip, SequenceMean, SequenceSum, TokenMean
from rl4llm.randomness import generator
from rl4llm.regularizers import EntropyBonus, KLPenalty
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import on_ranks
from tests.log_probs import random_log_probs

AGGREGATORS = [TokenMean(), SequenceMean(), SequenceSum(), ConstantNorm(max_tokens=7)]
REGULARIZERS = {"entropy": EntropyBonus(0.5), "kl": KLPenalty(0.5, "k2")}


@pytest.fixture(scope="module")
def policy():
    sizes = {"hidden_size": 8, "layers": 1, "heads": 1, "key_value_heads": 1, "head_size": 8}
    return Policy(*TinyQwen3(**sizes).build()).double()


def composition(aggregator=AGGREGATORS[0]):
    loss = Loss(PPOClip(), regularizers=REGULARIZERS, aggregator=aggregator)
    return Composition(Rollout(), Credit(advantage=GroupRelative()), loss)


def terms_of(policy, batch, gates):
    batch = batch.replace(gates=gates)
    return policy_losses(policy, composition(), batch, Meter(), version=None)


@given(batch=rollouts(max_batch=4, max_time=5), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_a_gate_silences_tokens_of_its_own_term_and_rescales_none(policy, batch, seed):
    mask = batch.response_mask
    drawn = torch.rand(3, *mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    whole = terms_of(policy, batch, torch.stack([mask] * 3))
    gated = terms_of(policy, batch, drawn & mask)
    for term, ungated, gate in zip(gated, whole, drawn & mask, strict=True):
        torch.testing.assert_close(term, torch.where(gate, ungated, 0.0), rtol=0, atol=0)


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
@given(batch=rollouts(max_batch=3, max_time=5))
@settings(max_examples=10)
def test_a_batch_that_comes_twice_has_the_loss_of_one_in_every_term(policy, aggregator, batch):
    def loss(rows, index):
        def one(piece):
            return [terms_of(policy, piece, torch.stack([piece.response_mask] * 3))[index]]

        return accumulate_gradients(rows, one, aggregator, max_tokens=40)

    for index in range(3):
        torch.testing.assert_close(loss(RolloutBatch.cat([batch, batch]), index), loss(batch, index))


def gradients(batch, aggregator, runtime=None, **updates):
    """The gradient of every step on a model whose loss is linear in one weight, and which stays where it is."""
    module, steps, runtime = torch.nn.Linear(1, 1).double(), [], runtime or Runtime()
    updates = Updates(**{"minibatches": 1, "max_grad_norm": None, "microbatch_tokens": 20, **updates})
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    learner = Learner("policy", module, optimizer, updates.scheduler(optimizer, 9), updates, Averaging((aggregator,)))

    def losses(rows):
        return [rows.rollout_log_probs * module.weight.sum(), rows.scores.nan_to_num() * module.weight.sum()]

    def step(optimizer, counted):
        steps.append(module.weight.grad.clone())
        optimizer.step()

    dealt = deal(batch, updates, learner.averaging, generator=generator("deal"), world_size=runtime.world_size)
    runtime = replace(runtime, step_optimizer=step)
    improve(runtime, learner, dealt, losses, Meter(), Health(Guards(), Path), counted=False)
    return torch.stack(steps)


def some_batch(seed, rows=7, time=5):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, time + 1, (rows, 1), generator=random)
    zeros = torch.zeros(rows, time, dtype=torch.float64)
    return RolloutBatch(
        prompt_ids=torch.ones(rows, 2, dtype=torch.long),
        prompt_mask=torch.ones(rows, 2, dtype=torch.bool),
        response_ids=torch.ones(rows, time, dtype=torch.long),
        response_mask=torch.arange(time) < lengths,
        group_ids=torch.arange(rows),
        prompt_uids=torch.arange(rows),
        scores=torch.randn(rows, generator=random, dtype=torch.float64),
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=random_log_probs(rows, time, generator=random),
        old_log_probs=zeros,
    )


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("seed", "ranks"), [(0, 2), (1, 3), (2, 5), (3, 9)])
def test_the_sum_of_the_gradients_of_all_ranks_is_that_of_one_rank(unchecked_shapes, aggregator, seed, ranks):
    batch = some_batch(seed)
    alone = gradients(batch, aggregator, minibatches=2)
    for summed in on_ranks(ranks, lambda runtime: gradients(batch, aggregator, runtime, minibatches=2)):
        torch.testing.assert_close(summed, alone)


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
def test_every_rank_adds_a_part_of_its_own(unchecked_shapes, aggregator):
    batch, own = some_batch(4), []

    def work(runtime):
        def add(module):
            own.append(module.weight.grad.clone())
            runtime.add_gradients(module)

        return gradients(batch, aggregator, replace(runtime, add_gradients=add))

    (summed, _, _) = on_ranks(3, work)
    torch.testing.assert_close(torch.stack(own).sum(0), summed[0])
    assert not any(torch.allclose(part, summed[0]) for part in own)


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
def test_every_step_has_the_gradient_of_its_own_rows_whatever_the_other_minibatches_hold(unchecked_shapes, aggregator):
    batch = some_batch(5)
    steps = gradients(batch, aggregator, minibatches=3, epochs=2)
    parts = list(Updates(minibatches=3, epochs=2).cut(dense_group_ids(batch.group_ids)[0], generator("deal")))
    assert len(steps) == len(parts) == 6
    for step, rows in zip(steps, parts, strict=True):
        torch.testing.assert_close(gradients(batch.select(rows), aggregator)[0], step)
