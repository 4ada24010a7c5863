import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.objectives import (
    ConstantNorm,
    SequenceMean,
    SequenceSum,
    TokenMean,
    constant_norm,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from rl4llm.testing.reference.objectives import loop_aggregate
from rl4llm.testing.strategies import masks, tensors

FUNCTIONS = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant_norm": lambda *tensors, **options: constant_norm(*tensors, max_tokens=7, **options),
}
COMPONENTS = {
    "token_mean": TokenMean(),
    "sequence_mean": SequenceMean(),
    "sequence_sum": SequenceSum(),
    "constant_norm": ConstantNorm(max_tokens=7),
}
any_mode = st.sampled_from(list(COMPONENTS))
every_mode = pytest.mark.parametrize("mode", COMPONENTS)


@st.composite
def losses(draw):
    mask = draw(masks())
    return draw(tensors(tuple(mask.shape))), mask


def value_and_gradient(aggregator, per_token, mask, **options):
    per_token = per_token.clone().requires_grad_()
    value = aggregator(per_token, mask, **options)
    value.backward()
    return value.detach(), per_token.grad


@given(any_mode, losses())
def test_aggregates_equal_the_reference_loop(mode, drawn):
    expected = torch.tensor(loop_aggregate(*drawn, mode=mode, max_tokens=7), dtype=torch.float64)
    torch.testing.assert_close(COMPONENTS[mode](*drawn), expected, rtol=1e-12, atol=1e-14)


@given(any_mode, losses(), st.data())
def test_pieces_with_the_count_of_the_step_sum_to_the_whole(mode, drawn, data):
    per_token, mask = drawn
    aggregator = COMPONENTS[mode]
    piece_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(mask), max_size=len(mask))))
    pieces = [piece_of == piece for piece in range(4)]
    total = sum(aggregator.count(mask[rows]) for rows in pieces)
    whole, whole_gradient = value_and_gradient(aggregator, per_token, mask)
    summed, gradient = torch.zeros_like(whole), torch.zeros_like(per_token)
    for rows in pieces:
        value, slope = value_and_gradient(aggregator, per_token[rows], mask[rows], normalizer=total)
        summed += value
        gradient[rows] = slope
    torch.testing.assert_close(summed, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-10, atol=1e-10)


@given(any_mode, losses(), st.sampled_from([torch.nan, torch.inf, 1e30]))
def test_masked_positions_are_never_read_and_get_no_gradient(mode, drawn, garbage):
    per_token, mask = drawn
    value, gradient = value_and_gradient(COMPONENTS[mode], per_token, mask)
    dirty = torch.where(mask, per_token, garbage)
    dirty_value, dirty_gradient = value_and_gradient(COMPONENTS[mode], dirty, mask)
    assert torch.equal(value, dirty_value)
    assert torch.equal(gradient, dirty_gradient)
    assert (gradient[~mask] == 0).all()


@given(any_mode, losses(), st.integers(0, 4), st.integers(0, 2))
def test_padding_columns_and_empty_responses_change_nothing(mode, drawn, columns, rows):
    padded = [torch.nn.functional.pad(x, (0, columns, 0, rows)) for x in drawn]
    torch.testing.assert_close(COMPONENTS[mode](*padded), COMPONENTS[mode](*drawn), rtol=1e-12, atol=1e-14)


@given(any_mode, losses(), st.randoms(use_true_random=False))
def test_order_of_responses_does_not_matter(mode, drawn, random):
    order = torch.tensor(random.sample(range(len(drawn[1])), len(drawn[1])))
    shuffled = [x[order] for x in drawn]
    torch.testing.assert_close(COMPONENTS[mode](*shuffled), COMPONENTS[mode](*drawn), rtol=1e-12, atol=1e-14)


@every_mode
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3), (2,), (0,)])
@pytest.mark.parametrize("normalizer", [None, 0, 5])
def test_nothing_that_counts_gives_zero_with_zero_gradient(mode, shape, normalizer):
    mask = torch.zeros(shape, dtype=torch.bool)
    value, gradient = value_and_gradient(COMPONENTS[mode], torch.full(shape, torch.nan), mask, normalizer=normalizer)
    assert value == 0
    assert torch.equal(gradient, torch.zeros(shape))


@given(any_mode, losses())
def test_a_loss_of_each_response_is_averaged_over_the_responses_that_count(mode, drawn):
    per_response, mask = drawn[0][:, 0], drawn[1][:, 0]
    value = COMPONENTS[mode](per_response, mask)
    counted = per_response[mask]
    torch.testing.assert_close(value, counted.mean() if len(counted) else torch.zeros(()).double())
    assert COMPONENTS[mode].count(mask) == len(counted)


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_equal_lengths_make_all_modes_agree_up_to_a_constant(batch, time, data):
    per_token, mask = data.draw(tensors((batch, time))), torch.ones(batch, time, dtype=torch.bool)
    mean = token_mean(per_token, mask)
    torch.testing.assert_close(sequence_mean(per_token, mask), mean)
    torch.testing.assert_close(sequence_sum(per_token, mask), mean * time)
    torch.testing.assert_close(constant_norm(per_token, mask, max_tokens=time), mean)


@given(any_mode, losses())
def test_the_count_is_what_stands_alone_divides_by(mode, drawn):
    aggregator = COMPONENTS[mode]
    count = aggregator.count(drawn[1])
    assert count.ndim == 0
    assert torch.equal(aggregator(*drawn), aggregator(*drawn, normalizer=count))
    assert torch.equal(aggregator(*drawn), aggregator(*drawn, normalizer=int(count)))
    # A loop that averages over ranks divides the count by their number, which may leave less than 1.
    torch.testing.assert_close(aggregator(*drawn, normalizer=count / 16), 16 * aggregator(*drawn))


def test_known_numbers():
    # Rows (1, 2, 3) and (6): token mean 12/4, means of rows 2 and 6, sums of rows 6 and 6.
    per_token = torch.tensor([[1.0, 2.0, 3.0], [9.0, 6.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
    results = [token_mean, sequence_mean, sequence_sum]
    assert [float(f(per_token, mask)) for f in results] == [3.0, 4.0, 6.0]
    assert constant_norm(per_token, mask, max_tokens=12) == 0.5


@every_mode
def test_bfloat16_losses_are_summed_in_float32(mode):
    per_token, mask = torch.ones(1, 1000, dtype=torch.bfloat16), torch.ones(1, 1000, dtype=torch.bool)
    value = COMPONENTS[mode](per_token, mask)
    assert value.dtype == torch.float32
    exact = COMPONENTS[mode](per_token.double(), mask)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)


@every_mode
def test_autograd_agrees_with_finite_differences(mode):
    generator = torch.Generator().manual_seed(0)
    per_token = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = torch.rand(3, 4, generator=generator) < 0.6
    assert torch.autograd.gradcheck(lambda x: COMPONENTS[mode](x, mask), per_token)


@every_mode
def test_inputs_that_would_broadcast_are_refused(mode, unchecked_shapes):
    aggregate, mask = COMPONENTS[mode], torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"per_token has shape \(2, 1\), mask \(2, 3\)"):
        aggregate(torch.zeros(2, 1), mask)
    with pytest.raises(UsageError, match="mask must be a bool tensor"):
        aggregate(torch.zeros(2, 3), mask.float())
    with pytest.raises(UsageError, match=r"mask has shape \(1, 2, 3\); expected batch time"):
        aggregate(torch.zeros(1, 2, 3), mask[None])
    for wrong in (-1.0, math.nan):
        with pytest.raises(UsageError, match="normalizer must be in"):
            aggregate(torch.zeros(2, 3), mask, normalizer=wrong)


@pytest.mark.parametrize("wrong", [0, -3])
def test_max_tokens_must_be_positive(wrong):
    with pytest.raises(UsageError, match="ConstantNorm: max_tokens must be a whole number of at least 1"):
        ConstantNorm(max_tokens=wrong)
    with pytest.raises(UsageError, match="constant_norm: max_tokens must be a whole number of at least 1"):
        constant_norm(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), max_tokens=wrong)


@given(any_mode, losses())
def test_a_component_is_its_function_and_a_value(mode, drawn):
    component = COMPONENTS[mode]
    assert torch.equal(component(*drawn, normalizer=3), FUNCTIONS[mode](*drawn, normalizer=3))
    assert eval(repr(component)) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(pickle.loads(pickle.dumps(component)))
    assert component.paper
    with pytest.raises(AttributeError):
        component.max_tokens = 3
