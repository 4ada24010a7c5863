"""Small wrong estimators, shapings and value sources: classic bugs, written as an author might write them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rl4llm.advantages import GAE, AdvantageEstimator, Advantages, GroupRelative, LeaveOneOut, Whiten
from rl4llm.critics import ValueSource
from rl4llm.masked import keep
from rl4llm.rewards import RewardShaping
from rl4llm.testing import ORACLES
from rl4llm.testing.reference import advantages


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
class ScoreAtLastColumn(Wrong, RewardShaping):
    """3: the score lands on padding."""

    def __call__(self, batch):
        rewards = torch.zeros_like(batch.rewards)
        rewards[:, -1] = batch.scores.nan_to_num()
        return rewards


@dataclass(frozen=True)
class ValuesOneLate(Wrong, AdvantageEstimator):
    """4: the value of a state is read at the token after it."""

    gamma: float = 1.0
    lam: float = 0.95
    lam_returns: float | None = None
    reads: ClassVar[tuple[str, ...]] = ("values",)

    def __call__(self, batch):
        (values,) = batch.require("values", by="ValuesOneLate")
        return GAE(self.gamma, self.lam)(batch.replace(values=values.roll(-1, dims=-1)))


@dataclass(frozen=True)
class SkipsTheFirst(Wrong, AdvantageEstimator):
    """17: a loop that ends one token early."""

    gamma: float = 0.9

    def __call__(self, batch):
        mask, running = batch.scored_mask, torch.zeros(len(batch), dtype=batch.rewards.dtype)
        returns = torch.zeros_like(batch.rewards)
        for t in range(mask.shape[1] - 1, 0, -1):
            running = torch.where(mask[:, t], keep(batch.rewards, mask)[:, t] + self.gamma * running, running)
            returns[:, t] = torch.where(mask[:, t], running, 0.0)
        values = 0.0 if batch.values is None else keep(batch.values, mask)
        return Advantages(returns - values, returns)


@dataclass(frozen=True)
class ResponsesByTokens(Wrong, Whiten):
    """14: advantages of responses, whitened over tokens."""

    level: str = "response"

    def __call__(self, advantages, batch):
        return Whiten(level="token")(advantages, batch)


@dataclass(frozen=True)
class WorksWithoutValues(Wrong, AdvantageEstimator):
    """18: what is missing is taken for 0."""

    reads: ClassVar[tuple[str, ...]] = ("values",)

    def __call__(self, batch):
        values = 0.0 if batch.values is None else keep(batch.values, batch.scored_mask)
        return Advantages(keep(batch.rewards, batch.scored_mask) - values)


@dataclass(frozen=True)
class MaskFromIds(Wrong, AdvantageEstimator):
    """19: padding is told by its token, which is also the end of sequence."""

    def __call__(self, batch):
        mask = (batch.response_ids != 0) & ~batch.scores.isnan()[:, None]
        return Advantages(keep(batch.rewards, mask))


class ForgetsOnResume(ValueSource):
    """25: what was learned is not in the state."""

    def __init__(self):
        super().__init__()
        self.mean = 0.0

    def values(self, batch, context):
        return batch.replace(values=keep(torch.full_like(batch.rewards, self.mean), batch.response_mask))

    def learn(self, batch, context):
        self.mean += float(batch.scores.nan_to_num().sum()) + 1.0


ORACLES[ValuesOneLate], ORACLES[SkipsTheFirst] = advantages.gae, advantages.monte_carlo


# The part and the law that is meant for its bug.
@dataclass(frozen=True)
class FlippedSign(LeaveOneOut):
    """18: the baseline less the score."""

    def __call__(self, batch):
        return Advantages(-super().__call__(batch).advantages)


@dataclass(frozen=True)
class FlippedAndScaled(GroupRelative):
    """18: the same where the size of the update is not declared."""

    def __call__(self, batch):
        return Advantages(-super().__call__(batch).advantages)


@dataclass(frozen=True)
class FlippedGAE(GAE):
    """18: the same for tokens, where no sibling tells."""

    def __call__(self, batch):
        return Advantages(*(-x for x in super().__call__(batch)))


@dataclass(frozen=True)
class OthersInstead(Wrong, AdvantageEstimator):
    """18: the mask of the siblings is the wrong way round, so each response gets the scores of the others."""

    compares: ClassVar[str] = "group"

    def __call__(self, batch):
        scores = batch.scores.nan_to_num()
        others = (batch.group_ids[:, None] == batch.group_ids) & ~torch.eye(len(batch), dtype=torch.bool)
        return Advantages(spread((others * scores).sum(-1), batch))


CAUGHT = [
    (OthersInstead(), "a higher score never gives a lower advantage"),
    (FlippedSign(), "a higher score never gives a lower advantage"),
    (FlippedGAE(), "a higher score never gives a lower advantage"),
    (FlippedAndScaled(), "a higher score never gives a lower advantage"),
    (ReadsPadding(), "masked positions may hold anything"),
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
    (ScoreAtLastColumn(), "finite, and 0 where the mask is False"),
    (ValuesOneLate(), "equals its slow reference"),
    (SkipsTheFirst(), "equals its slow reference"),
    (ResponsesByTokens(), "mean 0 and variance 1 at its level"),
    (WorksWithoutValues(), "what is missing is named"),
    (MaskFromIds(), "masked positions are never read"),
    (ForgetsOnResume(), "what is learned travels with the state"),
]
