"""`Domain`: the batches on which a part is examined, all by default and fewer for functions that promise less."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import check_choice
from rl4llm.groups import group_count
from rl4llm.masked import keep


@dataclass(frozen=True)
class Domain:
    """Batches on which a part is examined.

    Each field is "any", or names the batches that remain when a kind of batch is left out. A function is examined on
    what it promises: GAE of another library may be made for responses without holes.

    Args:
        rows: "non-empty": every response has a token.
        masks: "contiguous": the tokens of a response begin in the first column and stand without a gap.
        scores: "scored": every response could be scored.
        groups: "differing": every response has a sibling, and no two responses have the same score.
        padding: "finite": masked positions hold ordinary numbers; else they may hold NaN and infinity.
    """

    rows: Literal["any", "non-empty"] = "any"
    masks: Literal["any", "contiguous"] = "any"
    scores: Literal["any", "scored"] = "any"
    groups: Literal["any", "differing"] = "any"
    padding: Literal["any", "finite"] = "any"

    def __post_init__(self) -> None:
        for field in fields(self):
            check_choice("check", ("any", NARROW[field.name]), **{field.name: getattr(self, field.name)})

    def restrict(self, batch: RolloutBatch) -> RolloutBatch:
        """Return the batch if it lies in this domain, and otherwise one like it that does.

        Empty responses get a token, holes are closed, missing scores become 0, equal scores are moved apart, and
        responses without siblings become siblings of each other.

        Args:
            batch: Any valid batch.
        """
        if self == EVERYTHING:
            return batch
        batch = _paired(batch) if self.groups == "differing" else batch
        mask, scores = batch.response_mask, batch.scores
        shaping = keep(batch.rewards - place_scores(scores, mask), mask)
        if self.masks == "contiguous":
            mask = torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True)
        if self.rows == "non-empty":
            mask = mask | (~mask.any(-1, keepdim=True) & (torch.arange(mask.shape[1]) == 0))
        if self.scores == "scored":
            scores = torch.where(scores.isnan(), 0.0, scores)
        if self.groups == "differing":
            scores = _apart(scores)
        rewards = place_scores(scores, mask) + keep(shaping, mask)
        return batch.replace(response_mask=mask, scores=scores, rewards=rewards.to(batch.rewards.dtype))

    def narrow(self) -> "Domain":
        """Return the plainest domain inside: no kind of batch that a field can leave out."""
        return Domain(**NARROW)  # type: ignore[arg-type]

    def kinds(self) -> dict[str, "Domain"]:
        """Return the domains that have one kind of batch more than the plainest, for each kind that this domain has."""
        plain: Any = self.narrow()
        return {name: replace(plain, **{name: "any"}) for name in NARROW if getattr(self, name) == "any"}


def _paired(batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with the responses that have no sibling in one group; a batch of one row is doubled."""
    if len(batch) == 1:
        batch = batch.select(torch.tensor([0, 0]))
        batch = batch.replace(response_ids=batch.response_ids + torch.arange(2)[:, None])
    alone = group_count(batch.group_ids, torch.ones_like(batch.truncated)) == 1
    if not alone.any():
        return batch
    others = batch.group_ids[~alone] if alone.sum() == 1 else batch.group_ids[alone]
    return batch.replace(group_ids=torch.where(alone, others[0], batch.group_ids))


def _apart(scores: Tensor) -> Tensor:
    """Return scores of which no two are equal: if any are, each is raised by a thousandth of its rank."""
    known = scores[~scores.isnan()]
    return scores if len(known.unique()) == len(known) else scores + 1e-3 * scores.argsort(stable=True).argsort()


NARROW = {"rows": "non-empty", "masks": "contiguous", "scores": "scored", "groups": "differing", "padding": "finite"}

SAID = {
    "rows": "responses without tokens",
    "masks": "masks with holes or padding on the left",
    "scores": "responses that could not be scored",
    "groups": "responses without siblings, or equal scores",
    "padding": "NaN or infinity at masked positions",
}

EVERYTHING = Domain()
