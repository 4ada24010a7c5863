"""Small wrong parts, each with one of the field's classic bugs, written as an author might write them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rl4llm.advantages import AdvantageEstimator, Advantages, GroupRelative, LeaveOneOut, Whiten
from rl4llm.gates import Gate
from rl4llm.masked import keep
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import Regularizer


def spread(per_response, batch):
    return torch.where(batch.response_mask, per_response[:, None], 0.0)


class Wrong:
    paper: ClassVar[str] = ""


@dataclass(frozen=True)
class ReadsPadding(Wrong, AdvantageEstimator):
    """1: multiplies with the mask, so NaN at a masked position stays NaN."""

    def __call__(self, batch):
        return Advantages((batch.rewards - batch.values) * batch.response_mask)


@dataclass(frozen=True)
class StopsAtHoles(Wrong, AdvantageEstimator):
    """2, 29: the next column is taken for the next token, so tool output ends the return."""

    def __call__(self, batch):
        rewards, running = keep(batch.rewards, batch.response_mask & ~batch.scores.isnan()[:, None]), 0.0
        result = torch.zeros_like(rewards)
        for t in reversed(range(rewards.shape[1])):
            running = rewards[:, t] + running * batch.response_mask[:, t]
            result[:, t] = running
        return Advantages(keep(result, batch.response_mask))


@dataclass(frozen=True)
class ByPosition(Wrong, AdvantageEstimator):
    """15: neighbours in the batch are taken for siblings."""

    compares: ClassVar[str] = "group"

    def __call__(self, batch):
        scores = batch.scores.nan_to_num()
        pairs = scores - scores.roll(1)
        return Advantages(spread(torch.where(batch.scores.isnan(), 0.0, pairs), batch))


@dataclass(frozen=True)
class EpsilonStd(Wrong, AdvantageEstimator):
    """16: a constant group divides one epsilon by another."""

    compares: ClassVar[str] = "group"
    invariances: ClassVar[tuple[str, ...]] = ("shift", "scale")

    def __call__(self, batch):
        result = torch.zeros_like(batch.scores)
        for group in batch.group_ids.unique():
            rows = (batch.group_ids == group) & ~batch.scores.isnan()
            scores = batch.scores[rows].float()
            mean = scores.sum() / (len(scores) + 1e-6)
            result[rows] = ((scores - mean) / (scores.std(correction=0) + 1e-6)).to(result.dtype)
        return Advantages(spread(result, batch))


@dataclass(frozen=True)
class RawSingleton(Wrong, AdvantageEstimator):
    """16: a response without siblings keeps its raw score."""

    compares: ClassVar[str] = "group"
    invariances: ClassVar[tuple[str, ...]] = ("shift",)

    def __call__(self, batch):
        centred = LeaveOneOut()(batch).advantages
        alone = torch.stack([(batch.group_ids == g).sum() == 1 for g in batch.group_ids])
        return Advantages(torch.where(alone[:, None], spread(batch.scores.nan_to_num(), batch), centred))


@dataclass(frozen=True)
class NaNAsZero(Wrong, AdvantageEstimator):
    """26: a response that could not be scored counts as wrong."""

    compares: ClassVar[str] = "group"

    def __call__(self, batch):
        scores = batch.scores.nan_to_num()
        rewards = torch.where(torch.isnan(batch.rewards), 0.0, batch.rewards)
        return LeaveOneOut()(batch.replace(scores=scores, rewards=rewards))


@dataclass(frozen=True)
class CallsItselfUnbiased(Wrong, AdvantageEstimator):
    """The mean with the response itself in it, declared unbiased."""

    compares: ClassVar[str] = "group"

    def __call__(self, batch):
        return GroupRelative(normalize_std=False)(batch)

    def update_scale(self, size):
        return 1.0


@dataclass(frozen=True)
class Bfloat16Sum(Wrong, AdvantageEstimator):
    """27: sums in the dtype of its inputs, and gives float32 back."""

    def __call__(self, batch):
        rewards = keep(batch.rewards, batch.scored_mask)
        totals = rewards.sum(-1).float()
        return Advantages(spread(totals, batch))


@dataclass(frozen=True)
class InPlace(Wrong, AdvantageEstimator):
    """28: clears what it was given."""

    def __call__(self, batch):
        batch.rewards[~batch.response_mask] = 0.0
        return Advantages(keep(batch.rewards.clone(), batch.response_mask & ~batch.scores.isnan()[:, None]))


@dataclass(frozen=True)
class KeepsGraph(Wrong, AdvantageEstimator):
    """An advantage through which the critic gets the policy's gradient."""

    def __call__(self, batch):
        return Advantages(keep(batch.rewards - batch.values, batch.scored_mask))


@dataclass(frozen=True)
class WhitenWithMean(Wrong, Whiten):
    """13: statistics over padding too."""

    def __call__(self, advantages, batch):
        kept = torch.where(batch.scored_mask, advantages, 0.0)
        return torch.where(batch.scored_mask, (kept - kept.mean()) / (kept.std(correction=0) + 1e-8), 0.0)


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


def ratio(policy, batch):
    mask = batch.response_mask
    return (keep(policy.log_probs, mask) - keep(batch.old_log_probs.detach(), mask)).exp()


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


# The part and a law that is meant for its bug.
CAUGHT = [
    (ReadsPadding(), "masked positions are never read"),
    (StopsAtHoles(), "holes are stepped over"),
    (ByPosition(), "permuted rows give permuted results"),
    (EpsilonStd(), "ties are silent"),
    (RawSingleton(), "ties are silent"),
    (NaNAsZero(), "responses that could not be scored are left out"),
    (CallsItselfUnbiased(), "the expected update is as declared"),
    (Bfloat16Sum(), "the dtype of the inputs is kept"),
    (InPlace(), "inputs are not changed"),
    (KeepsGraph(), "no graph is returned"),
    (WhitenWithMean(), "padding changes nothing"),
    (KeepsPadding(), "a subset of the response mask"),
    (DividesByWidth(), "padding changes nothing"),
    (MeanOfMeans(), "microbatches add up to the whole"),
    (NaNOverNothing(), "finite, and 0 where the mask is False"),
    (WrongSign(), "the policy gradient while the policy has not moved"),
    (DetachedRatio(), "the policy gradient while the policy has not moved"),
    (OldWithGradient(), "gradient reaches the policy's own outputs only"),
    (MasksAfterExp(), "gradient reaches the policy's own outputs only"),
    (NormalizesItself(), "any cut into microbatches and ranks gives the same update"),
    (EntropyOfPadding(), "finite, and 0 where the mask is False"),
    (EntropyWithoutGradient(), "gradient reaches the policy's own outputs only"),
]

__all__ = ["CAUGHT"]
