"""Ridge regression against its normal equations, in both of its forms, and what is left out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import ridge_fit, ridge_predict
from tests.critics.helpers import NAN, doubles


def drawn(rows, features, seed=0):
    """Features of different sizes and places, and targets that depend on some of them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=random, dtype=torch.float64)
    x = x * torch.logspace(-2, 2, features, dtype=torch.float64) + torch.arange(features)
    return x, x[:, 0] / x[:, 0].abs().max() + torch.rand(rows, generator=random, dtype=torch.float64)


def normal_equations(x, y, ridge):
    """Intercept and weights in one system: columns standardized, the intercept without penalty."""
    z = (x - x.mean(0)) / x.std(0, unbiased=False)
    design = torch.cat([torch.ones(len(z), 1).double(), z], 1)
    penalty = torch.diag(doubles(0.0, *[ridge] * x.shape[1]))
    return torch.linalg.solve(design.T @ design + penalty, design.T @ y)


@given(st.integers(2, 40), st.integers(1, 40), st.sampled_from([0.01, 1.0, 100.0]), st.integers(0, 99))
def test_it_solves_the_normal_equations(rows, features, ridge, seed):
    x, y = drawn(rows, features, seed)
    intercept, *weights = normal_equations(x, y, ridge)
    fit = ridge_fit(x, y, ridge=ridge)
    torch.testing.assert_close(fit.weights, torch.stack(weights), rtol=0, atol=1e-10)
    torch.testing.assert_close(fit.intercept, intercept, rtol=0, atol=1e-10)
    z = (x - x.mean(0)) / x.std(0, unbiased=False)
    torch.testing.assert_close(ridge_predict(fit, x), z @ fit.weights + intercept, rtol=0, atol=1e-10)


def test_by_hand():
    # Mean 1, population variance 2/3: z = (−√1.5, 0, √1.5), Σz² = 3, Σz(y − 3) = 4√1.5; w = 4√1.5/(3 + 1) = √1.5.
    fit = ridge_fit(doubles(0, 1, 2)[:, None], doubles(1, 3, 5), ridge=1.0)
    assert fit.weights.item() == pytest.approx(1.5**0.5)
    assert ridge_predict(fit, doubles(0, 3)[:, None]).tolist() == pytest.approx([1.5, 6.0])


@given(st.integers(2, 12), st.integers(1, 12))
def test_units_and_places_of_features_do_not_matter(rows, features):
    x, y = drawn(rows, features)
    moved = x * torch.logspace(-3, 3, features).double() - 7.0
    got, expected = ridge_predict(ridge_fit(moved, y), moved), ridge_predict(ridge_fit(x, y), x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_are_harmless(dtype):
    x, y = (tensor.to(dtype) for tensor in drawn(9, 3))
    noise = 1.0 + torch.finfo(dtype).eps * torch.arange(9)[:, None].to(dtype)  # a constant and its rounding
    wide = torch.cat([x, torch.full((9, 1), 0.1, dtype=dtype), torch.zeros(9, 1, dtype=dtype), noise], 1)
    fit, narrow = ridge_fit(wide, y), ridge_fit(x, y)
    assert fit.weights[3:].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(fit.weights[:3], narrow.weights, rtol=0, atol=1e-9)
    elsewhere = torch.cat([x, torch.full((9, 3), 1e6, dtype=dtype)], 1)
    torch.testing.assert_close(ridge_predict(fit, elsewhere), ridge_predict(narrow, x), rtol=0, atol=1e-9)


def test_rows_without_a_target_are_not_read():
    x, y = drawn(8, 3)
    holes = y.clone()
    holes[[1, 4]] = NAN
    garbage = x.clone()
    garbage[1] = NAN
    rows = ~holes.isnan()
    for got, expected in zip(ridge_fit(garbage, holes), ridge_fit(x[rows], y[rows]), strict=True):
        assert torch.equal(got, expected)


def test_a_heavy_penalty_one_row_and_equal_targets_give_the_mean():
    x, y = drawn(8, 3)
    for fit, mean in [
        (ridge_fit(x, y, ridge=1e12), y.mean()),
        (ridge_fit(x[:1], y[:1]), y[0]),
        (ridge_fit(x, torch.full((8,), 0.3).double()), torch.tensor(0.3).double()),
    ]:
        torch.testing.assert_close(ridge_predict(fit, x), mean.expand(8), rtol=0, atol=1e-8)


def test_what_cannot_be_fitted_is_one_line(unchecked_shapes):
    x, y = drawn(4, 2)
    with pytest.raises(UsageError, match=r"^ridge_fit: no target is a number; [^\n]*$"):
        ridge_fit(x, torch.full((4,), NAN))
    with pytest.raises(UsageError, match=r"^ridge_fit: features and targets must be finite; [^\n]*$"):
        ridge_fit(x.index_fill(0, torch.tensor([2]), NAN), y)
    with pytest.raises(UsageError, match=r"^ridge_fit: ridge must be in "):
        ridge_fit(x, y, ridge=0.0)
    with pytest.raises(UsageError, match=r"^ridge_predict: features has shape \(4, 1\), the fit has 2 features; "):
        ridge_predict(ridge_fit(x, y), x[:, :1])


def test_a_feature_is_constant_against_its_own_size():
    """One feature of 1e9 beside one of 1e-9, both of which vary."""
    x, y = drawn(20, 2)
    fit = ridge_fit(x / x.std(0) * doubles(1e9, 1e-9), y)
    torch.testing.assert_close(fit.weights, ridge_fit(x / x.std(0), y).weights)
    level = torch.stack([x[:, 0], 1e-9 + 1e-26 * x[:, 1]], 1)
    assert ridge_fit(level, y).weights[1] == 0.0


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"^ridge_fit: features has shape \(3,\); expected 2 axes: row feature"),
        (
            torch.zeros(3, 2),
            torch.zeros(2),
            r"^ridge_fit: targets has shape \(2,\), features \(3, 2\); pass one",
        ),
    ],
)
def test_shapes_are_named(unchecked_shapes, features, targets, message):
    with pytest.raises(UsageError, match=message):
        ridge_fit(features, targets)
