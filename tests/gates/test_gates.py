"""What every gate obeys, and what tells the gates apart."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4llm.gates
from rl4llm.checks import UsageError
from rl4llm.critics import critic_std
from rl4llm.gates import (
    AdvantageMagnitude,
    AgreementGate,
    DivergenceFilter,
    Gate,
    HighEntropy,
    RandomGate,
    advantage_magnitude,
    agreement_gate,
    divergence_filter,
    drop_smallest,
    high_entropy,
    random_gate,
)
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import rollouts
from rl4llm.testing.views import with_padding

FUNCTIONS = {
    AgreementGate: lambda b, f: agreement_gate(b.critic_values, b.response_mask, fraction=f),
    DivergenceFilter: lambda b, f: divergence_filter(b.critic_values, b.response_mask, fraction=f),
    HighEntropy: lambda b, f: high_entropy(b.entropies, b.response_mask, fraction=f),
    AdvantageMagnitude: lambda b, f: advantage_magnitude(b.advantages, b.response_mask, fraction=f),
    RandomGate: lambda b, f: random_gate(b.prompt_uids, b.response_ids, b.response_mask, fraction=f),
}
KINDS = list(FUNCTIONS)
READ = ("critic_values", "entropies", "advantages", "response_ids")
FEWER = settings(max_examples=settings.default.max_examples // 3)  # whole batches are slow to draw
EVERY = pytest.mark.parametrize("kind", KINDS)
fractions = st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 0.8, 0.95])
batches = rollouts()


def with_masked(batch, garbage):
    """The batch with garbage at every masked position of what a gate reads."""
    number = {name: (7 if name == "response_ids" else garbage) for name in READ}
    mask = batch.response_mask
    changed = {name: torch.where(mask, getattr(batch, name), number[name]) for name in READ}
    return batch.replace(**{name: x.to(getattr(batch, name).dtype) for name, x in changed.items()})


@FEWER
@given(batches, fractions)
def test_a_gate_is_its_function_and_a_subset_of_the_mask(batch, fraction):
    for kind in KINDS:
        kept = kind(fraction=fraction)(batch)
        assert kept.dtype == torch.bool
        assert torch.equal(kept, FUNCTIONS[kind](batch, fraction))
        assert not (kept & ~batch.response_mask).any()


@FEWER
@given(batches, fractions, st.sampled_from([torch.nan, torch.inf, -torch.inf, -1e30]))
def test_masked_positions_are_never_read(batch, fraction, garbage):
    for kind in KINDS:
        gate = kind(fraction=fraction)
        assert torch.equal(gate(with_masked(batch, garbage)), gate(batch))


@FEWER
@given(batches, fractions, st.randoms())
def test_rows_permute(batch, fraction, random):
    for kind in KINDS:
        gate, rows = kind(fraction=fraction), torch.tensor(random.sample(range(len(batch)), len(batch)))
        assert torch.equal(gate(batch.select(rows)), gate(batch)[rows])


@FEWER
@given(batches, fractions, st.integers(1, 20))
def test_padding_columns_are_inert(batch, fraction, columns):
    for kind in KINDS:
        gate = kind(fraction=fraction)
        expected = torch.nn.functional.pad(gate(batch), (0, columns))
        assert torch.equal(gate(with_padding(batch, columns)), expected)


@FEWER
@given(batches, st.integers(0, 99), st.integers(0, 99))
def test_fraction_zero_keeps_all_and_a_larger_one_keeps_a_subset(batch, first, second):
    for kind in KINDS:
        assert torch.equal(kind(fraction=0.0)(batch), batch.response_mask)
        small, large = sorted([first, second])
        assert not (kind(fraction=large / 100)(batch) & ~kind(fraction=small / 100)(batch)).any()


@EVERY
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.29, 0.5, 0.999])
def test_without_ties_exactly_the_share_of_trained_tokens_is_dropped(kind, fraction):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(40) < torch.tensor([40, 0, 25, 35])[:, None]  # 100 trained tokens
    noise = torch.rand(6, 4, 40, generator=generator, dtype=torch.float64)
    needed = noise[:3] if kind in (AgreementGate, DivergenceFilter) else noise[0]
    if kind is RandomGate:
        kept = random_gate(torch.arange(4), torch.arange(160).reshape(4, 40), mask, fraction=fraction)
    else:
        kept = FUNCTIONS[kind](_Fields(needed, mask), fraction)
    assert int((mask & ~kept).sum()) == int(round(fraction * 1000) * 100 // 1000)


class _Fields:
    """Just what the functions read, without a whole batch."""

    def __init__(self, needed, response_mask):
        self.critic_values = self.entropies = self.advantages = needed
        self.response_mask = response_mask


@FEWER
@given(batches, fractions)
def test_the_spread_gates_drop_opposite_ends_of_one_ranking(batch, fraction):
    # dyadic values, for which both ways to take a standard deviation give the same bits over up to two critics
    values, mask = batch.critic_values[:2].round(), batch.response_mask
    spread = reference.spread(values)
    assert torch.equal(agreement_gate(values, mask, fraction=fraction), reference.drop_smallest(spread, mask, fraction))
    expected = reference.drop_smallest(-spread, mask, fraction)
    assert torch.equal(divergence_filter(values, mask, fraction=fraction), expected)


@FEWER
@given(batches, fractions)
def test_the_other_gates_drop_the_smallest(batch, fraction):
    mask = batch.response_mask
    expected = reference.drop_smallest(batch.entropies, mask, fraction)
    assert torch.equal(high_entropy(batch.entropies, mask, fraction=fraction), expected)
    expected = reference.drop_smallest(batch.advantages.abs(), mask, fraction)
    assert torch.equal(advantage_magnitude(batch.advantages, mask, fraction=fraction), expected)


def test_golden_gates():
    # spreads |V₁ − V₂| / 2 = (0.05, 0.45, 0.25, 0.5), the last one masked; ⌊0.4 · 3⌋ = 1 token goes
    critic_values = torch.tensor([[[0.0, 0.0, 0.0, 0.0]], [[0.1, 0.9, 0.5, 1.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert agreement_gate(critic_values, mask, fraction=0.4).tolist() == [[False, True, True, False]]
    assert divergence_filter(critic_values, mask, fraction=0.4).tolist() == [[True, False, True, False]]
    assert high_entropy(critic_values[1], mask, fraction=0.4).tolist() == [[False, True, True, False]]
    assert advantage_magnitude(-critic_values[1], mask, fraction=0.4).tolist() == [[False, True, True, False]]


@FEWER
@given(batches, fractions, st.randoms())
def test_the_order_of_the_critics_does_not_matter(batch, fraction, random):
    order = random.sample(range(len(batch.critic_values)), len(batch.critic_values))
    moved = batch.replace(critic_values=batch.critic_values[order])
    for kind in (AgreementGate, DivergenceFilter):
        assert torch.equal(kind(fraction=fraction)(moved), kind(fraction=fraction)(batch))


@FEWER
@given(rollouts(critics=1), fractions, st.integers(1, 4))
def test_one_critic_or_identical_ones_drop_nothing(batch, fraction, count):
    same = batch.replace(critic_values=batch.critic_values.expand(count, -1, -1))
    for kind in (AgreementGate, DivergenceFilter):
        assert torch.equal(kind(fraction=fraction)(same), batch.response_mask)


@pytest.mark.parametrize("gate", [agreement_gate, divergence_filter])
def test_a_nan_spread_is_kept(gate):
    critic_values = torch.tensor([[[0.0, torch.nan, 0.0, 0.0]], [[0.1, 0.9, 0.5, 1.0]]])
    assert gate(critic_values, torch.ones(1, 4, dtype=torch.bool), fraction=0.75)[0, 1]


@pytest.mark.parametrize("gate", [agreement_gate, divergence_filter])
def test_bf16_values_are_ranked_by_their_spread_in_float32(gate):
    # The spreads 0.501953125 and 0.500001907 (of ±1.0 − 0.00390625 and the like) fall together when rounded to bf16.
    low = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, 0.9960938, 0.0078125]], [[2.0, 2.0, 2.0]]], dtype=torch.bfloat16)
    spread = critic_std(low.float())
    assert critic_std(low)[0, 0] == critic_std(low)[0, 1]
    assert spread[0, 0] < spread[0, 1] < spread[0, 2]
    mask = torch.tensor([[True, True, False]])
    assert gate(low, mask, fraction=0.5).sum() == 1


@EVERY
def test_bf16_empty_and_all_masked_batches_are_fine(kind):
    if kind is RandomGate:
        uids, ids = torch.zeros(2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
        none = torch.zeros(2, 3, dtype=torch.bool)
        assert not random_gate(uids, ids, none, fraction=0.5).any()
        assert random_gate(uids[:0], ids[:0], none[:0], fraction=0.5).shape == (0, 3)
        return
    x = torch.full((2, 2, 3) if "critic_values" in kind.reads else (2, 3), torch.nan, dtype=torch.bfloat16)
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert not FUNCTIONS[kind](_Fields(x, none), 0.5).any()
    assert FUNCTIONS[kind](_Fields(x[..., :0, :], none[:0]), 0.5).shape == (0, 3)


@FEWER
@given(batches, fractions)
def test_inputs_are_not_mutated_nor_aliased_and_there_is_no_graph(batch, fraction):
    for kind in KINDS:
        before = {name: tensor.clone() for name, tensor in batch.tensors().items()}
        kept = kind(fraction=fraction)(batch)
        kept.logical_not_()
        torch.testing.assert_close(batch.tensors(), before, rtol=0, atol=0, equal_nan=True)


@EVERY
@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_fraction_outside_zero_to_one_is_an_error_at_construction_and_in_the_function(kind, fraction):
    with pytest.raises(UsageError, match=rf"{kind.__name__}: fraction must be in \[0, 1\), got"):
        kind(fraction=fraction)
    ids, mask = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
    fields = _Fields(torch.zeros((1, 1, 2) if "critic_values" in kind.reads else (1, 2)), mask)
    fields.prompt_uids, fields.response_ids = ids[:, 0], ids
    with pytest.raises(UsageError, match=r"^(?!drop_smallest)\w+: fraction must be in \[0, 1\), got"):
        FUNCTIONS[kind](fields, fraction)


@EVERY
def test_shapes_that_would_broadcast_are_errors(kind, unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    fields = _Fields(torch.zeros(1, 3), mask)
    fields.prompt_uids, fields.response_ids = torch.zeros(2), torch.zeros(1, 3)
    with pytest.raises(UsageError, match=r"^(?!drop_smallest)\w+: \w+ has shape \(1, 3\), response_mask \(2, 3\)"):
        FUNCTIONS[kind](fields, 0.2)
    fields = _Fields(torch.zeros(1, 2, 3) if "critic_values" in kind.reads else torch.zeros(2, 3), mask.float())
    fields.prompt_uids, fields.response_ids = torch.zeros(2), torch.zeros(2, 3)
    with pytest.raises(
        UsageError, match=r"^(?!drop_smallest)\w+: response_mask must be a bool tensor, got torch.float32"
    ):
        FUNCTIONS[kind](fields, 0.2)


@FEWER
@given(rollouts(), fractions)
def test_the_random_gate_passes_its_seed(batch, fraction):
    parts = batch.prompt_uids, batch.response_ids, batch.response_mask
    assert torch.equal(RandomGate(fraction, seed=3)(batch), random_gate(*parts, fraction=fraction, seed=3))


def test_random_gate_needs_one_uid_per_row_and_a_seed(unchecked_shapes):
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"random_gate: prompt_uids has shape \(3,\), response_mask \(2, 3\)"):
        random_gate(torch.zeros(3, dtype=torch.long), ids, mask)
    for by, call in (
        ("random_gate", lambda: random_gate(ids[:, 0], ids, mask, seed=-1)),
        ("RandomGate", lambda: RandomGate(seed=-1)),
    ):
        with pytest.raises(UsageError, match=f"{by}: seed must be a whole number of at least 0, got -1"):
            call()


@FEWER
@given(batches)
def test_a_missing_field_is_named_with_who_needs_it(batch):
    for kind in KINDS:
        for field in kind.reads:
            with pytest.raises(UsageError, match=f"{kind.__name__} needs {field}"):
                kind()(batch.replace(**{field: None}))


@pytest.mark.parametrize(
    "gate", [k(fraction=0.3) for k in KINDS] + [AgreementGate() & ~HighEntropy() | RandomGate(seed=3)]
)
def test_a_gate_is_a_frozen_value(gate):
    assert eval(repr(gate), dict(vars(rl4llm.gates))) == gate
    assert pickle.loads(pickle.dumps(gate)) == gate
    assert hash(gate) == hash(replace(gate))
    assert isinstance(gate, Gate)
    assert isinstance(gate.paper, str)
    field = next(iter(vars(gate)))
    with pytest.raises(FrozenInstanceError):
        setattr(gate, field, 0.1)
    if hasattr(gate, "fraction"):
        assert replace(gate, fraction=0.4) != gate


def test_the_defaults_are_the_papers():
    assert [AgreementGate().fraction, DivergenceFilter().fraction, HighEntropy().fraction] == [0.2, 0.2, 0.8]
    assert {kind: kind.paper for kind in KINDS[:3]} == {
        AgreementGate: "2510.01656",
        DivergenceFilter: "2510.01656",
        HighEntropy: "2506.01939",
    }
    generator = torch.Generator().manual_seed(0)
    x, mask = torch.rand(3, 5, 20, generator=generator), torch.ones(5, 20, dtype=torch.bool)
    assert int(agreement_gate(x, mask).sum()) == int(divergence_filter(x, mask).sum()) == 80
    assert int(high_entropy(x[0], mask).sum()) == 20
    assert int(advantage_magnitude(x[0], mask).sum()) == 80
    assert torch.equal(high_entropy(x[0], mask), drop_smallest(x[0], mask, 0.8))
