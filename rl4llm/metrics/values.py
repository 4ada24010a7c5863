"""How good values are, as torchmetrics metrics: over any number of batches and ranks, whatever their sizes."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rl4llm.checks import check_at_least, check_critic_values, check_token_tensors
from rl4llm.critic_values import critic_mean, critic_std
from rl4llm.value_diagnostics import calibration_curve, calibration_error, rank_correlation, response_places
from rl4llm.value_diagnostics import explained_variance as of_batch


class _TokenMetric(Metric):
    """Keeps the numbers of all trained tokens, because their order or their variance is only known at the end."""

    full_state_update = False
    values: list[Tensor]
    returns: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("values", "returns"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        values: Float[Tensor, "batch time"],
        returns: Float[Tensor, "batch time"],
        response_mask: Bool[Tensor, "batch time"],
    ) -> None:
        """Add the trained tokens of a batch.

        Args:
            values: V(sₜ).
            returns: Rₜ, or the Monte Carlo truth of V(sₜ).
            response_mask: True at trained tokens; nothing else is read.
        """
        check_token_tensors(type(self).__name__, response_mask, values=values, returns=returns)
        self.values.append(values.detach()[response_mask])
        self.returns.append(returns.detach()[response_mask])

    def _all(self) -> tuple[Tensor, Tensor]:
        if not self.values:
            return torch.zeros(0, device=self.device), torch.zeros(0, device=self.device)
        return dim_zero_cat(self.values), dim_zero_cat(self.returns)


class ExplainedVariance(_TokenMetric):
    """Share of the variance of all returns that the values explain.

    It is taken over the tokens of all batches together; the mean of its values over microbatches would be another
    number. See [explained_variance][rl4llm.value_diagnostics.explained_variance].

    Args:
        options: Options of every torchmetrics `Metric`.

    Example:
        >>> metric = ExplainedVariance()
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> metric.update(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]), mask)
        >>> metric.update(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]]), mask)
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the share; 0 where there is nothing to explain."""
        values, returns = self._all()
        return of_batch(values[None], returns[None], torch.ones_like(values, dtype=torch.bool)[None])


class Calibration(_TokenMetric):
    """Mean value and mean outcome by bin of the values, and the mean distance of the two.

    See [calibration_curve][rl4llm.value_diagnostics.calibration_curve].

    Args:
        bins: Number of bins, filled as evenly as can be.
        options: Options of every torchmetrics `Metric`.

    Example:
        >>> metric = Calibration(bins=1)
        >>> metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]]))
        >>> metric.compute()
        {'curve': tensor([[0.5000, 0.5000]]), 'error': tensor(0.)}
    """

    higher_is_better = False

    def __init__(self, bins: int = 10, **options: Any) -> None:
        super().__init__(**options)
        check_at_least("Calibration", 1, bins=bins)
        self.bins = bins

    def compute(self) -> dict[str, Tensor]:
        """Return `curve`, one pair of value and outcome per bin, and `error`."""
        values, returns = self._all()
        error = calibration_error(values, returns, self.bins)
        return {"curve": calibration_curve(values, returns, self.bins), "error": error}


class ErrorByPlace(Metric):
    """Mean distance of values from returns by the place of the token in its response.

        error(p) = mean over the tokens with placeₜ = p of |V(sₜ) − Rₜ|

    See [response_places][rl4llm.value_diagnostics.response_places].

    Args:
        parts: Number of parts of a response.
        options: Options of every torchmetrics `Metric`.

    Example:
        >>> metric = ErrorByPlace(parts=2)
        >>> metric.update(torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[True, True]]))
        >>> metric.compute()
        tensor([1.0000, 0.5000])
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, parts: int = 3, **options: Any) -> None:
        super().__init__(**options)
        check_at_least("ErrorByPlace", 1, parts=parts)
        self.parts = parts
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(parts, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        values: Float[Tensor, "batch time"],
        returns: Float[Tensor, "batch time"],
        response_mask: Bool[Tensor, "batch time"],
    ) -> None:
        """Add the trained tokens of a batch.

        Args:
            values: V(sₜ).
            returns: Rₜ, or the Monte Carlo truth of V(sₜ).
            response_mask: True at trained tokens; nothing else is read.
        """
        check_token_tensors("ErrorByPlace", response_mask, values=values, returns=returns)
        places = response_places(response_mask, self.parts)[response_mask]
        errors = (values.detach() - returns.detach())[response_mask].abs().to(self.total.dtype)
        self.total.index_add_(0, places, errors)
        self.count.index_add_(0, places, torch.ones_like(errors))

    def compute(self) -> Tensor:
        """Return the mean error of each part; NaN for a part without tokens."""
        return (self.total / self.count).float()


class SpreadErrorRankCorrelation(Metric):
    """Whether the critics disagree where they are wrong: Spearman's ρ between their spread and their mean's error.

        ρ = corr( rank(σₜ), rank(|V̄(sₜ) − Rₜ|) )          over the trained tokens of all batches

    See [rank_correlation][rl4llm.value_diagnostics.rank_correlation].

    Args:
        options: Options of every torchmetrics `Metric`.

    Example:
        >>> metric = SpreadErrorRankCorrelation()
        >>> critic_values = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 2.0, 4.0]]])
        >>> metric.update(critic_values, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
        >>> metric.compute()
        tensor(1.)
    """

    full_state_update = False
    higher_is_better = True
    spread: list[Tensor]
    error: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("spread", "error"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        critic_values: Float[Tensor, "critic batch time"],
        returns: Float[Tensor, "batch time"],
        response_mask: Bool[Tensor, "batch time"],
    ) -> None:
        """Add the trained tokens of a batch.

        Args:
            critic_values: Vₘ(sₜ).
            returns: Rₜ, or the Monte Carlo truth of V(sₜ).
            response_mask: True at trained tokens; nothing else is read.
        """
        check_critic_values("SpreadErrorRankCorrelation", critic_values, response_mask)
        check_token_tensors("SpreadErrorRankCorrelation", response_mask, returns=returns)
        self.spread.append(critic_std(critic_values)[response_mask])
        self.error.append((critic_mean(critic_values) - returns.detach()).abs()[response_mask])

    def compute(self) -> Tensor:
        """Return ρ; 0 where either side does not vary."""
        if not self.spread:
            return torch.zeros((), device=self.device)
        return rank_correlation(dim_zero_cat(self.spread), dim_zero_cat(self.error))
