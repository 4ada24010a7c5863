"""Gates that drop an exact share: equal tokens are told apart by what their rows hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.gates import (
    AdvantageMagnitude,
    AgreementGate,
    DivergenceFilter,
    HighEntropy,
    LowEntropy,
    content_noise,
    drop_smallest,
    low_entropy,
)
from rl4llm.gates.share import whole_part
from rl4llm.testing.strategies import rollouts

FEWER = settings(max_examples=settings.default.max_examples // 4)  # whole batches are slow to draw

KINDS = [AgreementGate, DivergenceFilter, HighEntropy, LowEntropy, AdvantageMagnitude]
fractions = st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 0.8, 0.95])


@pytest.mark.parametrize("kind", KINDS)
@FEWER
@given(batch=rollouts(), fraction=fractions)
def test_exactly_that_share_is_dropped(kind, batch, fraction):
    kept = kind(fraction=fraction, exact=True)(batch)
    trained = int(batch.response_mask.sum())
    assert not (kept & ~batch.response_mask).any()
    assert int(kept.sum()) == trained - (whole_part(fraction, trained) if trained else 0)


@pytest.mark.parametrize("kind", KINDS)
@FEWER
@given(batch=rollouts(), fraction=fractions)
def test_only_ties_are_decided_anew(kind, batch, fraction):
    """What is kept whole at the border may be dropped now; whatever was dropped still is."""
    exact, whole = kind(fraction=fraction, exact=True)(batch), kind(fraction=fraction)(batch)
    assert not (exact & ~whole).any()


@FEWER
@given(batch=rollouts(), fraction=fractions, seed=st.integers(0, 99))
def test_the_order_of_the_rows_has_no_say(batch, fraction, seed):
    batch = batch.replace(critic_values=torch.zeros_like(batch.critic_values))
    ids = torch.arange(len(batch))
    batch = batch.replace(prompt_uids=ids)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
    gate = AgreementGate(fraction=fraction, exact=True)
    assert torch.equal(gate(batch.select(order)), gate(batch)[order])


def test_constant_critics_drop_a_share_by_content():
    x, mask = torch.zeros(2, 50), torch.ones(2, 50, dtype=torch.bool)
    ids = torch.arange(100).reshape(2, 50)
    ties = content_noise(torch.tensor([1, 2]), ids, mask)
    kept = drop_smallest(x, mask, 0.2, ties=ties)
    assert int(kept.sum()) == 80
    assert torch.equal(drop_smallest(x, mask, 0.2), mask)
    other = drop_smallest(x, mask, 0.2, ties=content_noise(torch.tensor([1, 3]), ids, mask))
    assert not torch.equal(kept, other)
    assert kept[mask][ties[mask].argsort()][:20].sum() == 0


def test_ties_of_another_shape_are_named(unchecked_shapes):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"drop_smallest: ties has shape \(2, 2\)"):
        drop_smallest(x, mask, 0.4, ties=torch.zeros(2, 2))


@FEWER
@given(batch=rollouts(), fraction=fractions)
def test_low_entropy_keeps_the_smallest(batch, fraction):
    mask, entropies = batch.response_mask, batch.entropies
    kept = low_entropy(entropies, mask, fraction=fraction)
    assert torch.equal(kept, drop_smallest(-entropies, mask, fraction))
    if (mask & ~kept).any() and kept.any():
        assert entropies[mask & ~kept].min() > entropies[kept].max()


def test_identical_rows_are_told_apart():
    noise = content_noise(
        torch.tensor([7, 7, 7]), torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool)
    )
    assert len({tuple(row) for row in noise.tolist()}) == 3
    assert noise.unique().numel() == 12
