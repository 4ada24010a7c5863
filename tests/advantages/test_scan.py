import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.advantages import reverse_linear_scan
from rl4llm.testing.reference import estimators as reference
from rl4llm.testing.strategies import tensors


@given(data=st.data(), batch=st.integers(0, 3), time=st.sampled_from([0, 1, 2, 15, 16, 17, 32, 33, 255, 256, 257, 300]))
def test_equals_the_loop_over_time(data, batch, time):
    a = data.draw(tensors((batch, time), -1.0, 1.0))  # one draw in four is rounded, so holds exact zeros
    b = data.draw(tensors((batch, time)))
    torch.testing.assert_close(reverse_linear_scan(a, b), reference.reverse_linear_scan(a, b), rtol=0, atol=1e-12)


def test_a_zero_coefficient_cuts_the_recursion_inside_and_at_the_edge_of_a_block():
    b = torch.ones(300, dtype=torch.float64)
    a = torch.ones(300, dtype=torch.float64)
    zeros = (15, 16, 63, 100, 128, 255, 256)
    a[list(zeros)] = 0.0
    # x counts the ones up to and including the next zero of a (or the end).
    ends = torch.tensor([next((z for z in zeros if z >= t), 299) for t in range(300)])
    torch.testing.assert_close(reverse_linear_scan(a, b), (ends - torch.arange(300) + 1).double(), rtol=0, atol=0)


def test_coefficients_may_be_a_number_a_scalar_tensor_or_one_a_row():
    b = torch.arange(300, dtype=torch.float64).reshape(2, 150)
    expected = reverse_linear_scan(torch.full_like(b, 0.9), b)
    for a in (0.9, torch.tensor(0.9, dtype=torch.float64), torch.full((2, 1), 0.9, dtype=torch.float64)):
        torch.testing.assert_close(reverse_linear_scan(a, b), expected, rtol=0, atol=0)


def test_leading_axes_are_independent():
    b = torch.rand(2, 3, 70, dtype=torch.float64)
    whole = reverse_linear_scan(0.5, b)
    assert whole.shape == b.shape
    torch.testing.assert_close(whole[1, 2], reverse_linear_scan(0.5, b[1, 2]), rtol=0, atol=0)


def test_no_columns_give_no_columns():
    assert reverse_linear_scan(1.0, torch.zeros(3, 0)).shape == (3, 0)
    assert reverse_linear_scan(1.0, torch.zeros(0, 5)).shape == (0, 5)


def test_low_precision_and_integers_are_summed_in_float32():
    for dtype in (torch.bfloat16, torch.long):
        x = reverse_linear_scan(1.0, torch.ones(3000, dtype=dtype))
        assert x.dtype == torch.float32
        assert x[0] == 3000  # bfloat16 would stop at 256
