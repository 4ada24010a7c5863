"""The contract of `RolloutBatch` for every function over tokens."""

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

from rl4llm.advantages import discounted_returns, gae, length_adaptive_gae, whiten
from rl4llm.checks import UsageError
from rl4llm.testing.strategies import masks, tensors

# f(rewards, values, mask) -> outputs, batch time each
RECURSIONS = {
    "gae": lambda r, v, m: list(gae(r, v, m, gamma=0.9, lam=0.8)),
    "gae, decoupled": lambda r, v, m: list(gae(r, v, m, gamma=0.9, lam=0.5, lam_returns=1.0)),
    "length_adaptive_gae": lambda r, v, m: list(length_adaptive_gae(r, v, m, gamma=0.9, alpha=0.5)),
    "discounted_returns": lambda r, v, m: [discounted_returns(r, m, gamma=0.9)],
}
WHITENING = {
    "tokens": lambda r, v, m: [whiten(r, m)],
    "responses": lambda r, v, m: [whiten(r, m, level="response")],
    "groups": lambda r, v, m: [whiten(r, m, level="group", group_ids=torch.arange(len(r)) // 2)],
    "tokens, not shifted": lambda r, v, m: [whiten(r, m, shift_mean=False)],
}
# One example runs every function, so fewer examples do.
fewer = settings(max_examples=settings().max_examples // 3)
FUNCTIONS = RECURSIONS | WHITENING
each_function = pytest.mark.parametrize("function", list(FUNCTIONS.values()), ids=list(FUNCTIONS))
each_recursion = pytest.mark.parametrize("function", list(RECURSIONS.values()), ids=list(RECURSIONS))


def noted(functions):
    """The functions one after the other; a failure names the one it was at."""
    for name, function in functions.items():
        note(name)
        yield function


def same(got, expected, atol=1e-9):
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=atol)


@st.composite
def inputs(draw, **options):
    mask = draw(masks(**options))
    return draw(tensors(tuple(mask.shape))), draw(tensors(tuple(mask.shape))), mask


@fewer
@given(x=inputs(), garbage=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300]))
def test_values_outside_the_mask_are_never_read(x, garbage):
    rewards, values, mask = x
    for function in noted(FUNCTIONS):
        clean = function(rewards, values, mask)
        dirty = function(rewards.masked_fill(~mask, garbage), values.masked_fill(~mask, -garbage), mask)
        same(dirty, clean, atol=0)
        for output in clean:
            assert output.isfinite().all()
            assert (output[~mask] == 0).all()


@fewer
@given(x=inputs())
def test_holes_are_stepped_over(x):
    rewards, values, mask = x
    for function in noted(FUNCTIONS):
        outputs = function(rewards, values, mask)
        packed = [torch.zeros_like(rewards) for _ in range(2)]
        short = torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True)
        for target, source in zip(packed, (rewards, values), strict=True):
            target[short] = source[mask]
        for output, expected in zip(outputs, function(*packed, short), strict=True):
            torch.testing.assert_close(output[mask], expected[short], rtol=0, atol=1e-9)


@fewer
@given(x=inputs(), left=st.integers(0, 70), right=st.integers(0, 70))
def test_more_padding_columns_change_nothing(x, left, right):
    rewards, values, mask = x
    for function in noted(FUNCTIONS):
        wide = [torch.nn.functional.pad(t, (left, right), value=7.0) for t in (rewards, values)]
        outputs = function(*wide, torch.nn.functional.pad(mask, (left, right), value=False))
        same([output[:, left : left + mask.shape[1]] for output in outputs], function(rewards, values, mask))


@fewer
@given(data=st.data(), x=inputs())
def test_rows_do_not_see_their_order(data, x):
    rows = torch.tensor(data.draw(st.permutations(range(len(x[2])))))
    for function in noted(RECURSIONS):
        same(function(*[t[rows] for t in x]), [output[rows] for output in function(*x)], atol=0)


@fewer
@given(x=inputs())
def test_rows_are_independent(x):
    for function in noted(RECURSIONS):
        for row, outputs in enumerate(zip(*function(*x), strict=True)):
            alone = function(*[t[row : row + 1] for t in x])
            same([output[0] for output in alone], outputs, atol=0)


@each_function
def test_nothing_to_learn_from_gives_zero(function):
    for shape in ((2, 3), (2, 0), (0, 3)):
        mask = torch.zeros(shape, dtype=torch.bool)
        for output in function(torch.full(shape, torch.nan), torch.full(shape, torch.nan), mask):
            assert output.shape == shape
            assert (output == 0).all()


@each_function
def test_an_empty_row_beside_others_is_zero(function):
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    x = torch.tensor([[1.0, 2.0], [5.0, 5.0], [4.0, 9.0]], dtype=torch.float64)
    outputs, rest = function(x, x / 2, mask), [0, 2]
    for output in outputs:
        assert output.isfinite().all()
        assert (output[1] == 0).all()
        assert (output[rest] != 0).any() or output.abs().sum() == 0


@fewer
@given(x=inputs())
def test_inputs_are_not_changed_and_no_graph_comes_out(x):
    rewards, values, mask = x
    before = [t.clone() for t in x]
    for function in noted(FUNCTIONS):
        outputs = function(rewards.requires_grad_(), values.requires_grad_(), mask)
        assert all(not output.requires_grad for output in outputs)
        same([t.detach() for t in x[:2]], before[:2], atol=0)
        assert torch.equal(mask, before[2])


@each_function
def test_results_come_in_the_dtype_of_the_input(function):
    x = torch.tensor([[1.0, 3.0], [2.0, 7.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    wanted = {torch.bfloat16: torch.bfloat16, torch.float16: torch.float16, torch.float32: torch.float32}
    for dtype, expected in (wanted | {torch.float64: torch.float64, torch.long: torch.float32}).items():
        outputs = function(x.to(dtype), x.to(dtype), mask)
        assert {output.dtype for output in outputs} == {expected}
        exact = [output.to(expected) for output in function(x.double(), x.double(), mask)]
        for output, close in zip(outputs, exact, strict=True):
            torch.testing.assert_close(output, close)  # within the rounding of that dtype


@each_recursion
def test_bfloat16_is_accumulated_in_float32(function):
    # 3,000 rewards of 1/256: their sum is 11.7; added one by one in bfloat16 it stops at 1 (1 + 1/256 rounds to 1).
    rewards = torch.full((1, 3000), 2.0**-8, dtype=torch.bfloat16)
    values = torch.full((1, 3000), 2.0**-4, dtype=torch.bfloat16)
    mask = torch.ones(1, 3000, dtype=torch.bool)
    expected = function(rewards.double(), values.double(), mask)
    for output, exact in zip(function(rewards, values, mask), expected, strict=True):
        assert torch.equal(output, exact.float().bfloat16())


@each_function
@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,), (3, 3)])
def test_shapes_that_could_broadcast_are_refused(function, unchecked_shapes, shape):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"has shape \([\d, ]+\), response_mask \(2, 3\); pass one"):
        function(torch.zeros(shape), torch.zeros(shape), mask)


@each_function
def test_a_mask_of_numbers_is_refused(function, unchecked_shapes):
    with pytest.raises(UsageError, match=r"mask must be a bool tensor, got torch.float32; pass .*mask.bool\(\)"):
        function(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3))
