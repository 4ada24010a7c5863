"""Dynamic sampling: groups whose scores are all equal teach a group-relative method nothing, so others are drawn."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least
from rl4llm.data.task import PromptBatch
from rl4llm.groups import varies_in_group
from rl4llm.parts import Part

Drawn = tuple[RolloutBatch, PromptBatch]


@dataclass(frozen=True)
class DynamicSampling(Part):
    """Only groups with unequal scores are kept, and prompts are drawn until the batch is as large as without it (DAPO).

    Args:
        max_draws: Loader batches after which an update is made with the groups that were found.
    """

    max_draws: int = 10
    paper: ClassVar[str] = "2503.14476"

    def __post_init__(self) -> None:
        check_at_least("DynamicSampling", 1, max_draws=self.max_draws)

    def build(self) -> "Collector":
        """An empty collector."""
        return Collector(self.max_draws)


class Collector:
    """Groups gathered for the next update; all are of the policy as it is, since none is made in between.

    Args:
        max_draws: Loader batches after which the groups that were found are given out.
    """

    def __init__(self, max_draws: int) -> None:
        self.max_draws = max_draws
        self.found: list[Drawn] = []
        self.draws = 0

    def __call__(self, batch: RolloutBatch, prompts: PromptBatch) -> Drawn | None:
        """The rows and prompts of the next update, or None while there are too few.

        Surplus groups are dropped, as they would be stale at the next update. Group i of the result answers prompt i.
        """
        self.draws += 1
        kept = _informative(batch, prompts)
        if len(kept[1]):
            self.found.append(kept)
        enough = sum(len(asked) for _, asked in self.found) >= len(prompts)
        if not enough and self.draws < self.max_draws:
            return None
        found, self.found, self.draws = self.found, [], 0
        return _joined(found, len(prompts)) if found else None


def _informative(batch: RolloutBatch, prompts: PromptBatch) -> Drawn:
    scored = ~batch.scores.isnan()
    varies = varies_in_group(batch.scores, batch.group_ids, scored)
    groups = batch.group_ids[varies].unique()
    rows = torch.isin(batch.group_ids, groups).nonzero()[:, 0]
    return batch.select(rows), PromptBatch([prompts.examples[i] for i in groups.tolist()], prompts.task)


def _joined(found: list[Drawn], size: int) -> Drawn:
    numbered, start = [], 0
    for batch, prompts in found:
        # `unique` sorts, so the g-th smallest id belongs to the g-th example that was kept.
        ranks = batch.group_ids.unique(return_inverse=True)[1]
        numbered.append(batch.replace(group_ids=start + ranks))
        start += len(prompts)
    batch = RolloutBatch.cat(numbered)
    examples = [example for _, prompts in found for example in prompts.examples][:size]
    return batch.select(batch.group_ids < size), PromptBatch(examples, found[0][1].task)
