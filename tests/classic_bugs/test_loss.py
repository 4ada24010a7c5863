"""The loss of an optimizer step depends neither on how it is cut nor on which ranks hold it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl4llm.algorithms.learner import Learner

from rl4llm.advantages import GroupRelative
from rl4llm.algorithms import Updates, accumulate_gradients
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import ConstantNorm, PPOClip, SequenceMean, SequenceSum, TokenMean
from rl4llm.regularizers import EntropyBonus, KLPenalty
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import loop

AGGREGATORS = [TokenMean(), SequenceMean(), SequenceSum(), ConstantNorm(max_tokens=7)]
REGULARIZERS = {"entropy": EntropyBonus(0.5), "kl": KLPenalty(0.5, "k2")}


@pytest.fixture(scope="module")
def policy():
    sizes = {"hidden_size": 8, "layers": 1, "heads": 1, "key_value_heads": 1, "head_size": 8}
    return Policy(*TinyQwen3(**sizes).build()).double()


def composition(aggregator=AGGREGATORS[0]):
    return Composition(advantage=GroupRelative(), objective=PPOClip(), aggregator=aggregator, regularizers=REGULARIZERS)


def terms_of(policy, batch, gates):
    batch = batch.replace(gates=gates)
    return policy_losses(policy, composition(), batch, Meter(), temperature=1.0, on_policy=False)


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


class Rank:
    """As much of a loop as a learner sees, on one of several ranks."""

    def __init__(self, world_size=1, sum_over_ranks=lambda x: x):
        self.steps = []
        self.trainer = SimpleNamespace(world_size=world_size, strategy=self)
        self.shuffle = torch.Generator().manual_seed(0)
        self.sum_over_ranks = sum_over_ranks

    def manual_backward(self, loss):
        loss.backward()

    def optimizer_step(self, optimizer, closure):
        self.steps.append(optimizer.weight.grad)


class Still:
    """An optimizer that moves nothing, so that every step's gradient can be compared."""

    def __init__(self, module):
        self.weight, self.optimizer = module.weight, self

    def zero_grad(self):
        self.weight.grad = torch.zeros_like(self.weight)

    def toggle_model(self, sync_grad):
        return nullcontext()


def gradients(rank, batch, aggregator, **updates):
    """The gradient of every step of a learner whose loss is linear in one weight."""
    module = torch.nn.Linear(1, 1).double()
    updates = Updates(**{"minibatches": 1, "max_grad_norm": None, "microbatch_tokens": 20, **updates})
    schedule = SimpleNamespace(step=lambda: None)
    learner = Learner("policy", module, Still(module), schedule, updates, aggregator)

    def losses(rows):
        return [rows.rollout_log_probs * module.weight.sum(), rows.scores.nan_to_num() * module.weight.sum()]

    learner.minimize(rank, batch, losses, Meter(), counted=False)
    return torch.stack(rank.steps)


def some_batch(seed, rows=7, time=5):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, time + 1, (rows, 1), generator=generator)
    zeros = torch.zeros(rows, time, dtype=torch.float64)
    return RolloutBatch(
        prompt_ids=torch.ones(rows, 2, dtype=torch.long),
        prompt_mask=torch.ones(rows, 2, dtype=torch.bool),
        response_ids=torch.ones(rows, time, dtype=torch.long),
        response_mask=torch.arange(time) < lengths,
        group_ids=torch.arange(rows),
        prompt_uids=torch.arange(rows),
        scores=torch.randn(rows, generator=generator, dtype=torch.float64),
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=torch.randn(rows, time, generator=generator, dtype=torch.float64),
        old_log_probs=zeros,
    )


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("seed", "shares"), [(0, [4, 3]), (1, [1, 6]), (2, [2, 2, 3]), (3, [7, 0])])
def test_the_mean_of_the_gradients_of_all_ranks_is_that_of_one_rank(unchecked_shapes, aggregator, seed, shares):
    batch = some_batch(seed)
    alone = gradients(Rank(), batch, aggregator)
    shards = batch.split(shares)
    asked = []
    for shard in shards:
        asked.append([])
        gradients(Rank(sum_over_ranks=lambda x: (asked[-1].append(x), x)[1]), shard, aggregator)
    totals = [torch.stack(xs).sum(0) for xs in zip(*asked, strict=True)]
    assert totals, "a learner must sum its normalizers over the ranks"
    each = []
    for shard in shards:
        answers = iter(totals)
        rank = Rank(len(shards), lambda x, answers=answers: next(answers))
        each.append(gradients(rank, shard, aggregator))
    torch.testing.assert_close(torch.stack(each).mean(0), alone)


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
def test_every_step_has_the_gradient_of_its_own_rows_whatever_the_other_minibatches_hold(unchecked_shapes, aggregator):
    batch = some_batch(5)
    steps = gradients(Rank(), batch, aggregator, minibatches=3, epochs=2)
    parts = list(Updates(minibatches=3, epochs=2).cut(len(batch), torch.Generator().manual_seed(0)))
    assert len(steps) == len(parts) == 6
    for step, rows in zip(steps, parts, strict=True):
        torch.testing.assert_close(gradients(Rank(), batch.select(rows), aggregator)[0], step)


def test_logged_means_weigh_the_tokens_of_all_ranks(tiny_policy):
    module, here, there = loop(tiny_policy), Meter(), Meter()
    here.add("x", torch.tensor([1.0]))
    there.add("x", torch.tensor([5.0, 5.0, 5.0]))
    sent = []
    there.means(lambda x: (sent.append(x), x)[1])
    logged = {}
    module.sum_over_ranks = lambda x: x + sent[0]
    module.log = lambda name, value, **options: logged.update({name: float(value)})
    module._log(here, tokens=1, seconds=1.0)
    assert logged["x"] == 4.0
