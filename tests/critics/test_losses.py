"""Laws of the value losses."""

import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import ClippedValueLoss, SquaredValueLoss, clipped_value_loss, value_loss
from rl4llm.errors import GraphError
from rl4llm.testing.reference import gates as reference
from rl4llm.testing.strategies import rollouts, tensors

CLIP = 0.2
FEWER = settings(max_examples=settings.default.max_examples // 3)  # whole batches are slow to draw


def squared(values, old_values, returns, mask):
    return value_loss(values, returns, mask)


def clipped(values, old_values, returns, mask):
    return clipped_value_loss(values, old_values, returns, mask, clip=CLIP)


BOTH = [squared, clipped]
COMPONENTS = [SquaredValueLoss(), ClippedValueLoss(), ClippedValueLoss(clip=0.5)]


@st.composite
def cases(draw):
    """Values, old values, returns and a mask; old values are often within the clip of the values."""
    batch = draw(rollouts())
    move = draw(tensors(batch.response_mask.shape, -0.5, 0.5))
    return batch.values + move, batch.values, batch.returns, batch.response_mask


def gradient(loss, case):
    values = case[0].clone().requires_grad_()
    loss(values, *case[1:]).sum().backward()
    return values.grad


@FEWER
@given(cases())
def test_they_equal_the_reference(case):
    values, old, returns, mask = case
    assert torch.allclose(value_loss(values, returns, mask), reference.value_loss(values, returns, mask), atol=1e-14)
    expected = reference.clipped_value_loss(values, old, returns, mask, 0.3)
    assert torch.allclose(clipped_value_loss(values, old, returns, mask, clip=0.3), expected, atol=1e-14)


@FEWER
@given(cases())
def test_an_infinite_clip_is_the_plain_loss(case):
    values, old, returns, mask = case
    unclipped = clipped_value_loss(values, old, returns, mask, clip=torch.inf)
    assert torch.equal(unclipped, value_loss(values, returns, mask))
    assert (clipped(*case) >= unclipped).all()


@FEWER
@given(cases(), st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]))
def test_masked_positions_are_never_read_and_get_no_gradient(case, garbage):
    mask = case[3]
    poisoned = [torch.where(mask, x, torch.full_like(x, garbage)) for x in case[:3]]
    for loss in BOTH:
        assert torch.equal(loss(*poisoned, mask), loss(*case))
        assert torch.equal(gradient(loss, (*poisoned, mask)), gradient(loss, case))
        assert (loss(*case)[~mask] == 0).all()
        assert (gradient(loss, case)[~mask] == 0).all()


@FEWER
@given(cases(), st.randoms(), st.integers(1, 3))
def test_rows_permute_and_padding_is_inert(case, random, extra):
    rows = random.sample(range(len(case[0])), len(case[0]))
    padded = [torch.nn.functional.pad(x, (0, extra)) for x in case]
    for loss in BOTH:
        assert torch.equal(loss(*(x[rows] for x in case)), loss(*case)[rows])
        assert torch.equal(loss(*padded)[:, :-extra], loss(*case))


@pytest.mark.parametrize("loss", BOTH)
def test_gradient_flows_through_values_only(loss):
    values, old, returns = torch.randn(3, 2, 5, dtype=torch.float64)
    values.requires_grad_()
    mask = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    loss(values, old, returns, mask).sum().backward()
    assert values.grad[mask].abs().sum() > 0
    assert torch.autograd.gradcheck(lambda v: loss(v, old, returns, mask), (values,))
    with pytest.raises(GraphError, match="returns carries a gradient graph"):
        loss(values, old, returns.clone().requires_grad_(), mask)


def test_the_gradient_on_a_grid_is_the_closed_form():
    grid = torch.linspace(-1.05, 1.05, 22, dtype=torch.float64)  # never exactly at old ± clip, nor symmetric about R
    value, old, target = (x.reshape(22, -1) for x in torch.meshgrid(grid, grid + 0.037, grid + 0.013, indexing="ij"))
    case = (value, old, target, torch.ones_like(value, dtype=torch.bool))
    assert torch.allclose(gradient(squared, case), 2 * (value - target), atol=1e-14)
    # Outside the interval only an error that the clip makes look smaller still pushes.
    outside = (value - old).abs() > CLIP
    edge = old + CLIP * (value - old).sign()
    passes = ~outside | ((value - target).abs() > (edge - target).abs())
    assert 0.1 < passes.double().mean() < 0.9
    assert torch.allclose(gradient(clipped, case), 2 * (value - target) * passes, atol=1e-14)


def test_golden_numbers():
    # V = 0.5, V_old = 0, R = 1, clip 0.2: (0.5 − 1)² = 0.25 and (0.2 − 1)² = 0.64
    v, old, r = torch.tensor([[0.5]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    mask = torch.tensor([[True]])
    assert value_loss(v, r, mask).item() == 0.25
    assert clipped_value_loss(v, old, r, mask).item() == pytest.approx(0.64, rel=1e-6)


@pytest.mark.parametrize("loss", BOTH)
def test_they_compute_wide_return_the_input_dtype_and_mutate_nothing(loss):
    noise = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    case = [*noise, torch.arange(50).expand(4, -1) < 40]
    before = [x.clone() for x in case]
    assert loss(*case).dtype == torch.bfloat16
    assert torch.equal(loss(*case), loss(*(x.double() for x in case[:3]), case[3]).bfloat16())
    assert loss(case[0].float(), *case[1:]).dtype == torch.float32
    assert all(torch.equal(x, y) for x, y in zip(case, before, strict=True))


@pytest.mark.parametrize("loss", BOTH)
def test_empty_and_all_masked_are_zero(loss):
    x, none = torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(loss(x, x, x, none), torch.zeros(2, 3))
    assert loss(x[:0], x[:0], x[:0], none[:0]).shape == (0, 3)


def test_shapes_that_would_broadcast_are_errors(unchecked_shapes):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"value_loss: returns has shape \(2, 1\), response_mask \(2, 3\)"):
        value_loss(x, x[:, :1], mask)
    with pytest.raises(UsageError, match=r"clipped_value_loss: old_values has shape \(1, 3\)"):
        clipped_value_loss(x, x[:1], x, mask)
    for loss in BOTH:
        with pytest.raises(UsageError, match="value_loss: response_mask must be a bool tensor"):
            loss(x, x, x, mask.float())


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_is_not_positive_is_an_error(clip):
    with pytest.raises(UsageError, match="ClippedValueLoss: clip must be in"):
        ClippedValueLoss(clip=clip)
    x = torch.zeros(1, 1)
    with pytest.raises(UsageError, match="clipped_value_loss: clip must be in"):
        clipped_value_loss(x, x, x, x.bool(), clip=clip)


@FEWER
@given(rollouts(unscorable=False))
def test_the_components_are_the_functions(batch):
    values = batch.values + 0.3 * batch.advantages
    parts = batch.values, batch.returns, batch.response_mask
    assert torch.equal(SquaredValueLoss()(values, batch), value_loss(values, *parts[1:]))
    assert torch.equal(ClippedValueLoss(clip=0.5)(values, batch), clipped_value_loss(values, *parts, clip=0.5))


@FEWER
@given(rollouts())
def test_nothing_is_learned_from_a_response_that_could_not_be_scored(batch):
    for component in COMPONENTS:
        loss = component(batch.values + 1, batch)
        assert (loss[batch.scores.isnan()] == 0).all()
        scored = batch.replace(scores=batch.scores.nan_to_num())
        rows = ~batch.scores.isnan()
        assert torch.equal(loss[rows], component(batch.values + 1, scored)[rows])


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_a_frozen_value(component):
    assert eval(repr(component)) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(type(component)(**vars(component)))
    assert component.paper
    with pytest.raises(FrozenInstanceError):
        component.clip = 1.0


@FEWER
@given(rollouts())
def test_a_missing_field_is_named(batch):
    with pytest.raises(UsageError, match="SquaredValueLoss needs returns"):
        SquaredValueLoss()(batch.values, batch.replace(returns=None))
    with pytest.raises(UsageError, match="ClippedValueLoss needs values"):
        ClippedValueLoss()(batch.values, batch.replace(values=None))
