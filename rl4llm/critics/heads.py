"""Heads of critics: how many numbers they output per token, how those represent a value, and how they are trained."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_choice, check_interval, check_range
from rl4llm.critics.bounded import bounded_value
from rl4llm.critics.hl_gauss import TARGETS, Target, hl_gauss_loss, hl_gauss_spread, hl_gauss_value
from rl4llm.critics.quantiles import quantile_loss, quantile_spread
from rl4llm.masked import keep
from rl4llm.parts import Part
from rl4llm.value_losses import binary_value_loss, value_loss

Outputs = Float[Tensor, "batch time output"]
PerToken = Float[Tensor, "batch time"]


class Head(Part):
    """Base class of the heads, which define what a critic's outputs mean.

    The layer that gives them is a [ValueHead][rl4llm.critics.layers.ValueHead]; a head has no weights.
    Responses that could not be scored have no return to learn from; the loss is 0 there (`batch.scored_mask`).

    Attributes:
        domain: Which returns its loss takes: "real", or "unit" for those in [0, 1].
        spreads: Whether its outputs say how returns are spread around the value.
    """

    reads: ClassVar[tuple[str, ...]] = ("returns",)
    domain: ClassVar[str] = "real"
    spreads: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """Number of outputs per position."""
        return 1

    @abstractmethod
    def value(self, outputs: Outputs) -> PerToken:
        """Return V(sₜ) at every position, pointwise; callers ignore masked positions."""

    def spread(self, outputs: Outputs) -> PerToken:
        """Return the standard deviation of the return from each position on, without gradient, if `spreads` is True."""
        raise UsageError(
            f"{type(self).__name__} predicts one value per state and no spread of the return; use QuantileHead, "
            "HistogramHead or SigmoidHead."
        )

    @abstractmethod
    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return the head's own loss at every trained token. Gradient flows through `outputs` only."""


@dataclass(frozen=True)
class LinearHead(Head):
    """The value is the output; squared error. See [value_loss][rl4llm.value_losses.value_loss].

    V = z        l = (V − R)²
    """

    paper: ClassVar[str] = "1707.06347"

    def value(self, outputs: Outputs) -> PerToken:
        """Return the output."""
        return outputs[..., 0]

    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return `value_loss` against `batch.returns`."""
        (returns,) = self.take(batch)
        return value_loss(self.value(outputs), returns, batch.scored_mask)


@dataclass(frozen=True)
class BoundedHead(Head):
    """The value stays between bounds; squared error. See [bounded_value][rl4llm.critics.bounded.bounded_value].

        V = low + (high − low) (½ + arctan(z)/π)        l = (V − R)²

    Args:
        low: Smallest return.
        high: Largest return.
    """

    low: float = 0.0
    high: float = 1.0
    paper: ClassVar[str] = "2608.23566"

    def __post_init__(self) -> None:
        check_range("BoundedHead", low=self.low, high=self.high)

    def value(self, outputs: Outputs) -> PerToken:
        """Return `bounded_value` of the output."""
        return bounded_value(outputs[..., 0], low=self.low, high=self.high)

    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return `value_loss` of the bounded value against `batch.returns`."""
        (returns,) = self.take(batch)
        mask = batch.scored_mask
        return value_loss(self.value(keep(outputs, mask[..., None])), returns, mask)


@dataclass(frozen=True)
class SigmoidHead(Head):
    """The value is a probability; cross-entropy. See [binary_value_loss][rl4llm.value_losses.binary_value_loss].

        V = σ(z)        l = −R log V − (1 − R) log(1 − V)

    Its own loss takes returns in [0, 1] only; a squared error takes any. The spread √(V(1 − V)) is that of returns that
    are 0 or 1.
    """

    domain: ClassVar[str] = "unit"
    spreads: ClassVar[bool] = True
    paper: ClassVar[str] = "2604.08865"

    def value(self, outputs: Outputs) -> PerToken:
        """Return the sigmoid of the output."""
        return outputs[..., 0].sigmoid()

    def spread(self, outputs: Outputs) -> PerToken:
        """Return √(V(1 − V)), each factor from its own sigmoid."""
        z = outputs[..., 0].detach()
        return (z.sigmoid() * (-z).sigmoid()).sqrt()

    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return `binary_value_loss` against `batch.returns`."""
        (returns,) = self.take(batch)
        return binary_value_loss(outputs[..., 0], returns, batch.scored_mask)


@dataclass(frozen=True)
class HistogramHead(Head):
    """The value is the mean of a histogram; HL-Gauss. See [hl_gauss_loss][rl4llm.critics.hl_gauss.hl_gauss_loss].

        V = Σₖ softmax(z)ₖ cₖ        l = −Σₖ pₖ log softmax(z)ₖ, p a Gaussian around R

    The spread is that of the histogram, so a return that is certain still has about `sigma`.

    Args:
        low: Lower end of the support, some `sigma` below the smallest return.
        high: Upper end of the support, some `sigma` above the largest return.
        bins: Bins of equal width.
        sigma: Width of the Gaussian; about three quarters of a bin are common.
        target: A bin's share of the Gaussian: its mass there ("mass"), or its density at the bin's centre ("density").
    """

    low: float = -0.1
    high: float = 1.1
    bins: int = 51
    sigma: float = 0.02
    target: Target = "mass"
    spreads: ClassVar[bool] = True
    paper: ClassVar[str] = "2403.03950"

    def __post_init__(self) -> None:
        check_range("HistogramHead", low=self.low, high=self.high)
        check_at_least("HistogramHead", 2, bins=self.bins)
        check_interval("HistogramHead", 0.0, math.inf, "()", sigma=self.sigma)
        check_choice("HistogramHead", TARGETS, target=self.target)

    @property
    def size(self) -> int:
        """One logit per bin."""
        return self.bins

    def value(self, outputs: Outputs) -> PerToken:
        """Return `hl_gauss_value` of the logits."""
        return hl_gauss_value(outputs, low=self.low, high=self.high)

    def spread(self, outputs: Outputs) -> PerToken:
        """Return `hl_gauss_spread` of the logits."""
        return hl_gauss_spread(outputs, low=self.low, high=self.high)

    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return `hl_gauss_loss` against `batch.returns`."""
        (returns,) = self.take(batch)
        return hl_gauss_loss(
            outputs, returns, batch.scored_mask, low=self.low, high=self.high, sigma=self.sigma, target=self.target
        )


@dataclass(frozen=True)
class QuantileHead(Head):
    """The value is the mean of quantiles. See [quantile_loss][rl4llm.critics.quantiles.quantile_loss].

        V = (1/N) Σᵢ zᵢ        l = (1/N) Σᵢ |τᵢ − 1{R < zᵢ}| Hκ(R − zᵢ)/κ

    Args:
        count: N, how many quantiles.
        kappa: κ, where the error turns from quadratic to linear, in units of the return; small against their range, or
            values are drawn to its middle.
    """

    count: int = 32
    kappa: float = 0.01
    spreads: ClassVar[bool] = True
    paper: ClassVar[str] = "1710.10044"

    def __post_init__(self) -> None:
        check_at_least("QuantileHead", 1, count=self.count)
        check_interval("QuantileHead", 0.0, math.inf, "()", kappa=self.kappa)

    @property
    def size(self) -> int:
        """One output per quantile."""
        return self.count

    def value(self, outputs: Outputs) -> PerToken:
        """Return the mean of the quantiles."""
        return outputs.mean(-1)

    def spread(self, outputs: Outputs) -> PerToken:
        """Return `quantile_spread` of the outputs."""
        return quantile_spread(outputs)

    def loss(self, outputs: Outputs, batch: RolloutBatch) -> PerToken:
        """Return `quantile_loss` against `batch.returns`."""
        (returns,) = self.take(batch)
        return quantile_loss(outputs, returns, batch.scored_mask, kappa=self.kappa)
