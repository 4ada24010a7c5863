"""EasyPPO's weights: mean 1 over prompts, blind to how the batch is cut, and what the floor acts on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics import (
    ClippedValueLoss,
    CriticEnsemble,
    MiniCritics,
    NoiseNormalizedValueLoss,
    SquaredValueLoss,
    critic_mean,
    group_shards,
    learns_from,
    noise_weights,
    prompt_shards,
    shared_shards,
)
from rl4llm.testing.reference import values as reference
from rl4llm.testing.strategies import group_ids, rollouts, scores
from rl4llm.testing.value_laws import stand_in
from tests.critics.helpers import NAN, batch_of, doubles

FEWER = settings(max_examples=settings.default.max_examples // 3)
floors, powers = st.sampled_from([None, 0.01, 0.5, 10.0]), st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def groups(draw):
    """Scores, some NaN, and ids of ragged groups in any order."""
    batch = draw(st.integers(1, 9))
    return draw(scores(batch)), draw(group_ids(batch))


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)


def of_prompts(weights, numbers, ids):
    """One weight for each prompt that has a score."""
    scored = ~numbers.isnan()
    return torch.stack([weights[scored & (ids == group)][0] for group in ids[scored].unique()])


@given(groups(), floors, powers)
def test_they_equal_the_reference(drawn, floor, power):
    close(noise_weights(*drawn, floor=floor, power=power), reference.noise_weights(*drawn, floor, power))


@given(groups(), floors, powers)
def test_their_mean_over_the_prompts_is_one_and_siblings_weigh_alike(drawn, floor, power):
    numbers, ids = drawn
    weights, scored = noise_weights(*drawn, floor=floor, power=power), ~numbers.isnan()
    assert (weights[~scored] == 0).all()
    assert weights.isfinite().all()
    if scored.any():
        assert (weights[scored] > 0).all()
        close(of_prompts(weights, numbers, ids).mean(), torch.tensor(1.0, dtype=torch.float64))
    for group in ids[scored].unique():
        assert len(weights[scored & (ids == group)].unique()) == 1


@given(groups(), powers, st.sampled_from([0.25, 2.0, 16.0]), st.sampled_from([-1.0, 0.0, 8.0]))
def test_the_scale_of_the_scores_does_not_matter_under_the_default_floor(drawn, power, scale, shift):
    numbers, ids = drawn
    assume(numbers.nan_to_num().abs().max() < 100)
    close(noise_weights(scale * numbers + shift, ids, power=power), noise_weights(numbers, ids, power=power))


@given(groups(), floors, powers, st.randoms())
def test_rows_permute_groups_are_renamed_and_unscored_rows_dropped(drawn, floor, power, random):
    numbers, ids = drawn
    options = {"floor": floor, "power": power}
    weights, order = noise_weights(*drawn, **options), random.sample(range(len(ids)), len(ids))
    close(noise_weights(numbers[order], ids[order], **options), weights[order])
    close(noise_weights(numbers, 7 - 3 * ids, **options), weights)
    scored = ~numbers.isnan()
    close(noise_weights(numbers[scored], ids[scored], **options), weights[scored])


@given(st.integers(2, 16), st.floats(0.1, 100.0))
def test_only_unanimous_binary_prompts_reach_the_floor_and_weigh_root_n_times_an_even_one(n, span):
    n -= n % 2
    won = torch.arange(n)
    rows = torch.stack([won * 0.0, (won < n // 2) * span, (won < 1) * span]).double()
    numbers, ids = rows.flatten(), torch.arange(3).repeat_interleave(n)
    unanimous, even, rare = of_prompts(noise_weights(numbers, ids), numbers, ids).tolist()
    assert unanimous / even == pytest.approx(n**0.5)
    # One success in n: σ = Δ√(n − 1)/n, above the floor.
    assert rare / even == pytest.approx(0.5 / ((n - 1) ** 0.5 / n))


def test_the_floors_of_the_paper():
    # ε = Δ/(2√n): 0.25 for scores of ±1 and n = 16, 0.125 for {0, 1}; the floor given is the floor taken.
    for low, expected in ((-1.0, 0.25), (0.0, 0.125)):
        numbers = doubles(*[low] * 15, 1.0, *[1.0] * 16)
        ids = torch.arange(2).repeat_interleave(16)
        close(noise_weights(numbers, ids), noise_weights(numbers, ids, floor=expected))
        assert not torch.equal(noise_weights(numbers, ids), noise_weights(numbers, ids, floor=2 * expected))


def test_the_example_of_the_authors():
    # Groups (0, 1) and (½, ½), power 1, floor 0.01: 1/0.25 = 4 and 1/0.01 = 100, whose mean is 52.
    weights = noise_weights(doubles(0.0, 1.0, 0.5, 0.5), torch.tensor([3, 3, 1, 1]), floor=0.01, power=1.0)
    close(52 * weights, doubles(4.0, 4.0, 100.0, 100.0))


def test_where_nothing_tells_prompts_apart_all_weigh_one():
    ids = torch.tensor([0, 0, 1, 2])
    for numbers in (doubles(0.1, 0.1, 0.1, 0.1), doubles(0.0, 1.0, NAN, NAN)):
        scored = ~numbers.isnan()
        close(noise_weights(numbers, ids)[scored], torch.ones_like(numbers)[scored])
    close(noise_weights(doubles(0.0, 1.0, 5.0), torch.arange(3)), doubles(1.0, 1.0, 1.0))  # one response a prompt
    assert noise_weights(doubles(NAN, NAN), torch.tensor([0, 0])).tolist() == [0.0, 0.0]
    close(noise_weights(doubles(0.0, 1.0, 5.0, 5.0), ids, power=0.0), doubles(1.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_they_come_in_the_dtype_of_the_scores(dtype):
    weights = noise_weights(torch.tensor([1, 0, 1, 1]).to(dtype), torch.tensor([0, 0, 1, 1]))
    assert weights.dtype == (torch.float32 if dtype == torch.int64 else dtype)


# --- the loss ---------------------------------------------------------------------------------------------------------

LOSSES = [
    NoiseNormalizedValueLoss(),
    NoiseNormalizedValueLoss(floor=0.3, power=1.0),
    NoiseNormalizedValueLoss(loss=ClippedValueLoss(clip=0.5)),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@each_loss
@FEWER
@given(batch=rollouts())
def test_the_component_is_the_inner_loss_times_the_weights_of_the_outcomes(loss, batch):
    prepared = loss.prepare(batch)
    weights = noise_weights(batch.outcomes, batch.group_ids, floor=loss.floor, power=loss.power)
    assert torch.equal(prepared.value_weights, weights)
    expected = weights[:, None] * loss.loss(batch.advantages, batch)
    assert torch.equal(loss(batch.advantages, prepared), expected)


def test_it_must_be_prepared():
    batch = batch_of([1, 2], [0.0, 1.0], returns=torch.zeros(2, 3).double())
    with pytest.raises(UsageError, match=r"^NoiseNormalizedValueLoss needs value_weights, which .* a value loss"):
        NoiseNormalizedValueLoss()(torch.zeros(2, 3).double(), batch)


def test_what_it_weighs_is_prepared_too():
    class Prepared(SquaredValueLoss):
        def prepare(self, batch):
            return batch.replace(returns=torch.ones_like(batch.rewards))

    assert NoiseNormalizedValueLoss(loss=Prepared()).prepare(batch_of([1, 2], [0.0, 1.0])).returns.all()


@pytest.mark.parametrize("loss", [SquaredValueLoss(), ClippedValueLoss()])
def test_other_losses_need_no_preparation(loss):
    batch = batch_of([1, 2], [0.0, 1.0])
    assert loss.prepare(batch) is batch


@pytest.fixture(scope="module")
def two_critics(tiny_critic):
    return list(MiniCritics(tiny_critic).build("").critics)


@FEWER
@given(
    batch=rollouts(critics=2, unscorable=False), shards=st.sampled_from([group_shards, prompt_shards, shared_shards])
)
def test_a_critic_weighs_the_responses_of_its_shard_by_all_their_siblings(two_critics, batch, shards):
    """Neither shards nor minibatches nor microbatches change a weight: they are cut from the prepared batch."""
    sizes = batch.group_ids.unique(return_counts=True)[1]
    assume(shards is not group_shards or bool((sizes >= 2).all()))
    loss, seen = NoiseNormalizedValueLoss(), {}
    source = CriticEnsemble(two_critics, shards=shards, aggregate=critic_mean, loss=loss)
    context = replace(stand_in(), minimize=lambda name, rows, of_rows: seen.update({name: rows}))
    source.learn(batch.replace(value_weights=None), context)
    whole = noise_weights(batch.outcomes, batch.group_ids)
    for index, rows in enumerate(seen.values()):
        chosen = learns_from(shards(batch.group_ids, 2), index)
        assert torch.equal(rows.value_weights, whole[chosen])
        pieces = torch.cat([loss(piece.advantages, piece) for piece in rows.split([1] * len(rows))] or [whole[:0]])
        assert torch.equal(pieces, loss(rows.advantages, rows)) or not len(rows)


def test_weights_of_a_shard_alone_would_be_others():
    """The control that the preparation excludes: half of a group may be unanimous."""
    numbers, ids = doubles(0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0), torch.arange(2).repeat_interleave(4)
    shard = learns_from(group_shards(ids, 2), 0)
    alone = noise_weights(numbers[shard], ids[shard])
    assert (noise_weights(numbers, ids)[shard] - alone).abs().max() > 0.1


@pytest.mark.parametrize("options", [{"floor": 0.0}, {"floor": -1.0}, {"power": -0.5}, {"power": torch.inf}])
def test_what_is_out_of_range_is_named(options):
    (name,) = options
    with pytest.raises(UsageError, match=rf"^NoiseNormalizedValueLoss: {name} must be in "):
        NoiseNormalizedValueLoss(**options)
    with pytest.raises(UsageError, match=rf"^noise_weights: {name} must be in "):
        noise_weights(torch.zeros(2), torch.zeros(2, dtype=torch.long), **options)


def test_weights_travel_with_their_rows():
    batch = batch_of([1, 2, 3], [0.0, 1.0, 1.0], value_weights=doubles(1.0, 2.0, 3.0))
    assert batch.select(torch.tensor([2, 0])).value_weights.tolist() == [3.0, 1.0]
    assert RolloutBatch.cat([batch, batch]).value_weights.tolist() == [1.0, 2.0, 3.0] * 2
