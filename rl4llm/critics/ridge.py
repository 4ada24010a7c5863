"""Ridge regression on standardized features in closed form, for the probe of POISE."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.checks import UsageError, check_device, check_given, check_interval, check_ndim
from rl4llm.masked import at_least_float32


class RidgeFit(NamedTuple):
    """A fitted ridge regression; everything is in float64.

    Attributes:
        mean: Mean of each feature.
        scale: Population standard deviation of each feature; 1 where the feature was constant.
        weights: Weight of each standardized feature; 0 where the feature was constant.
        intercept: Mean of the targets, the prediction at the mean of the features.
    """

    mean: Float[Tensor, " feature"]
    scale: Float[Tensor, " feature"]
    weights: Float[Tensor, " feature"]
    intercept: Float[Tensor, ""]


@torch.no_grad()
def ridge_fit(
    features: Float[Tensor, "row feature"], targets: Float[Tensor, " row"], *, ridge: float = 0.01
) -> RidgeFit:
    """Fit a linear function of standardized features to targets, with a penalty on its weights.

        z = (φ − mean φ)/std φ          min over w and b of Σ (y − b − wᵀz)² + ridge ‖w‖²

        b = ȳ          w = (ZᵀZ + ridge I)⁻¹ Zᵀ(y − ȳ) = Zᵀ(ZZᵀ + ridge I)⁻¹ (y − ȳ)

    The sums run over the rows, so `ridge` counts as much as that many rows of one feature; the standard deviation is
    that of the population. Of the two forms of w, the one with the smaller matrix is solved, in float64. A feature
    that varies by no more than rounding in its own dtype counts as constant and gets weight 0. One row, or targets
    that are all equal, give the constant ȳ.

    Args:
        features: φ, one row per example; must be finite where the target is a number.
        targets: y, one number per row; rows whose target is NaN are left out, and their features are not read.
        ridge: Penalty, above 0; 0.01 in the paper. A very large one leaves the constant ȳ.

    Returns:
        The fit, without graph, for [ridge_predict][].

    Raises:
        UsageError: If shapes differ, no target is a number, a feature is not finite, or `ridge` is not positive.

    Example:
        >>> fit = ridge_fit(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1.0, 3.0, 5.0]), ridge=1e-9)
        >>> ridge_predict(fit, torch.tensor([[3.0]]))
        tensor([7.0000], dtype=torch.float64)

    References:
        Choi et al., 2026 (POISE). arXiv:2605.07579; StandardScaler and Ridge of scikit-learn in the authors' code.
    """
    check_interval("ridge_fit", 0.0, ends="()", ridge=ridge)
    check_ndim("ridge_fit", 2, axes="row feature", features=features)
    check_given("ridge_fit", targets=targets)
    check_device("ridge_fit", features=features, targets=targets)
    if targets.shape != features.shape[:1]:
        raise UsageError(
            f"ridge_fit: targets has shape {tuple(targets.shape)}, features {tuple(features.shape)}; pass one target "
            "per row."
        )
    known = ~targets.isnan()
    phi, y = features[known].double(), targets[known].double()
    if not len(y):
        raise UsageError("ridge_fit: no target is a number; pass at least one row that has one.")
    if not (phi.isfinite().all() and y.isfinite().all()):
        raise UsageError("ridge_fit: features and targets must be finite; leave such rows out with a target of NaN.")
    mean = phi.mean(0)
    spread = (phi - mean).square().mean(0).sqrt()
    varies = spread > 8 * torch.finfo(at_least_float32(features).dtype).eps * phi.abs().amax(0)
    scale = torch.where(varies, spread, 1.0)
    z = torch.where(varies, (phi - mean) / scale, 0.0)
    return RidgeFit(mean, scale, _weights(z, y - y.mean(), ridge), y.mean())


def _weights(z: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Return the minimizer for centred z and y, from the smaller of the two systems."""
    rows, features = z.shape
    identity = torch.eye(min(rows, features), dtype=z.dtype, device=z.device)
    if rows < features:
        return z.T @ torch.linalg.solve(z @ z.T + ridge * identity, y)
    return torch.linalg.solve(z.T @ z + ridge * identity, z.T @ y)


@torch.no_grad()
def ridge_predict(fit: RidgeFit, features: Float[Tensor, "row feature"]) -> Float[Tensor, " row"]:
    """Return the prediction b + wᵀ(φ − mean)/scale of each row.

    Args:
        fit: What [ridge_fit][] returned.
        features: φ, as many features as the fit has.

    Returns:
        One number per row, in float64, without graph.

    Raises:
        UsageError: If the number of features differs.

    Example:
        >>> fit = ridge_fit(torch.tensor([[1.0], [1.0]]), torch.tensor([0.0, 1.0]))
        >>> ridge_predict(fit, torch.tensor([[9.0]]))
        tensor([0.5000], dtype=torch.float64)

    References:
        Choi et al., 2026 (POISE). arXiv:2605.07579.
    """
    check_given("ridge_predict", features=features)
    check_device("ridge_predict", weights=fit.weights, features=features)
    if features.ndim != 2 or features.shape[1] != len(fit.weights):
        raise UsageError(
            f"ridge_predict: features has shape {tuple(features.shape)}, the fit has {len(fit.weights)} features; pass "
            "(rows, features)."
        )
    return (features.double() - fit.mean) / fit.scale @ fit.weights + fit.intercept
