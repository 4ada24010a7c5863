"""Small wrong gates, aggregators, objectives and regularizers: classic bugs, written as an author might write them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rl4llm.gates import Gate
from rl4llm.masked import keep
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import KLPenalty, Regularizer


class Wrong:
    paper: ClassVar[str] = ""


def ratio(policy, batch):
    mask = batch.response_mask
    return (keep(policy.log_probs, mask) - keep(batch.old_log_probs.detach(), mask)).exp()


@dataclass(frozen=True)
class KeepsPadding(Wrong, Gate):
    """23: a filter that forgets the mask."""

    def __call__(self, batch):
        return torch.ones_like(batch.response_mask)


@dataclass(frozen=True)
class DividesByWidth(Wrong, Aggregator):
    """9: the width of the tensor is the divisor."""

    def count(self, mask):
        return torch.tensor(mask.numel())

    def __call__(self, per_token, mask, *, normalizer=None):
        return torch.where(mask, per_token, 0.0).sum() / (self.count(mask) if normalizer is None else normalizer)


@dataclass(frozen=True)
class MeanOfMeans(Wrong, Aggregator):
    """6: divides by its own count whatever it is told."""

    def count(self, mask):
        return mask.sum()

    def __call__(self, per_token, mask, *, normalizer=None):
        return torch.where(mask, per_token, 0.0).sum() / mask.sum().clamp(min=1)


@dataclass(frozen=True)
class NaNOverNothing(Wrong, Aggregator):
    """10: a batch without tokens is 0 / 0."""

    def count(self, mask):
        return mask.sum()

    def __call__(self, per_token, mask, *, normalizer=None):
        return torch.where(mask, per_token, 0.0).sum() / (mask.sum() if normalizer is None else normalizer)


@dataclass(frozen=True)
class WrongSign(Wrong, PolicyObjective):
    """18, 22: an objective to maximize, minimized."""

    is_policy_gradient: ClassVar[bool] = True

    def __call__(self, policy, batch):
        return keep(ratio(policy, batch) * batch.advantages.detach(), batch.response_mask)


@dataclass(frozen=True)
class DetachedRatio(Wrong, PolicyObjective):
    """12, 22: the ratio is clamped and detached, and no gradient is left."""

    is_policy_gradient: ClassVar[bool] = True

    def __call__(self, policy, batch):
        weights = ratio(policy, batch).detach().clamp(0.8, 1.2)
        return keep(-weights * batch.advantages.detach(), batch.response_mask) + 0 * keep(
            policy.log_probs, batch.response_mask
        )


@dataclass(frozen=True)
class OldWithGradient(Wrong, PolicyObjective):
    """The log-probs before the update are differentiated as well."""

    def __call__(self, policy, batch):
        mask = batch.response_mask
        ratios = (keep(policy.log_probs, mask) - keep(batch.old_log_probs, mask)).exp()
        return keep(-ratios * batch.advantages.detach(), mask)


@dataclass(frozen=True)
class MasksAfterExp(Wrong, PolicyObjective):
    """5, 10: masked after the arithmetic, so inf at padding makes the gradient NaN."""

    def __call__(self, policy, batch):
        ratios = (policy.log_probs - batch.old_log_probs.detach()).exp()
        return -ratios * batch.advantages.detach() * batch.response_mask


@dataclass(frozen=True)
class NormalizesItself(Wrong, PolicyObjective):
    """6, 7: divides by the tokens of the rows that it sees."""

    def __call__(self, policy, batch):
        losses = keep(-ratio(policy, batch) * batch.advantages.detach(), batch.response_mask)
        return losses / batch.response_mask.sum().clamp(min=1)


@dataclass(frozen=True)
class EntropyOfPadding(Wrong, Regularizer):
    """23: an entropy bonus that reads padding."""

    coef: float = 1.0
    where: Gate | None = None

    def __call__(self, policy, batch):
        return -self.coef * policy.entropies


@dataclass(frozen=True)
class EntropyWithoutGradient(Wrong, Regularizer):
    """23: an entropy bonus that is only logged."""

    coef: float = 1.0
    where: Gate | None = None

    def __call__(self, policy, batch):
        return -self.coef * keep(policy.entropies.detach(), batch.response_mask)


@dataclass(frozen=True)
class DividedByItsOwnTokens(Wrong, Regularizer):
    """8: an auxiliary term with a divisor of its own."""

    coef: float = 1.0
    where: Gate | None = None

    def __call__(self, policy, batch):
        return -self.coef * keep(policy.entropies, batch.response_mask) / batch.response_mask.sum().clamp(min=1)


@dataclass(frozen=True)
class K3AsPenalty(Wrong, KLPenalty):
    """11: k3 in the loss, taken for the gradient of KL(π‖π_ref)."""

    kl_gradient: ClassVar[str] = "exact"


@dataclass(frozen=True)
class TemperatureOnOneSide(Wrong, PolicyObjective):
    """20, 21: old log-probs at the temperature of sampling, new ones without."""

    is_policy_gradient: ClassVar[bool] = True

    def __call__(self, policy, batch):
        mask = batch.response_mask
        ratios = (keep(policy.log_probs, mask) - keep(batch.old_log_probs.detach(), mask) / 0.6).exp()
        return keep(-ratios * batch.advantages.detach(), mask)


@dataclass(frozen=True)
class OutOfLine(Wrong, PolicyObjective):
    """24: log-probs of the token before."""

    def __call__(self, policy, batch):
        mask = batch.response_mask
        return keep(-policy.log_probs.roll(1, dims=-1) * batch.advantages.detach(), mask)


# The part and the law that is meant for its bug.
CAUGHT = [
    (KeepsPadding(), "a subset of the response mask"),
    (DividesByWidth(), "padding changes nothing"),
    (MeanOfMeans(), "microbatches add up to the whole"),
    (NaNOverNothing(), "finite, and 0 where the mask is False"),
    (WrongSign(), "the policy gradient while the policy has not moved"),
    (DetachedRatio(), "the policy gradient while the policy has not moved"),
    (OldWithGradient(), "gradient reaches the policy's own outputs only"),
    (MasksAfterExp(), "the gradient is finite whatever is masked"),
    (NormalizesItself(), "any cut into microbatches and ranks gives the same update"),
    (EntropyOfPadding(), "finite, and 0 where the mask is False"),
    (EntropyWithoutGradient(), "gradient reaches the policy's own outputs only"),
    (DividedByItsOwnTokens(), "any cut into microbatches and ranks gives the same update"),
    (K3AsPenalty(), "the KL estimate is as declared"),
    (TemperatureOnOneSide(), "the policy gradient while the policy has not moved"),
    (OutOfLine(), "gradient reaches the policy's own outputs only"),
]
