"""Dynamic sampling: groups whose scores are all equal teach a group-relative method nothing, so others are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.task import Example, PromptBatch, Task
from rl4llm.groups import varies_in_group
from rl4llm.parts import Part

Drawn = tuple[RolloutBatch, PromptBatch]
Record = dict[str, Any]  # the fields of an `Example`; those that a checkpoint could not hold are missing
Kept = tuple[RolloutBatch, list[Record]]

_PLAIN = (str, int, float, bool, type(None))


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

    def build(self) -> "DynamicSamplingState":
        """Return a state in which nothing has been gathered yet."""
        return DynamicSamplingState(self.max_draws)


class DynamicSamplingState(nn.Module):
    """The groups gathered for the next update. All are of the policy as it is, since no update is made in between.

    What it decides follows from the batches that it is given alone, so replicas that see the same batches stay equal.
    What it has gathered is part of its `state_dict`.

    Args:
        max_draws: Loader batches after which the groups that were found are given out.
    """

    def __init__(self, max_draws: int) -> None:
        super().__init__()
        self.max_draws = max_draws
        self.found: list[Kept] = []
        self.draws = 0

    def forward(self, batch: RolloutBatch, prompts: PromptBatch) -> Drawn | None:
        """Return the rows and prompts of the next update, or None while there are too few.

        Surplus groups are dropped, since they would be stale at the next update. When nothing informative is found in
        `max_draws` loader batches, there is no update, and the search starts anew.

        Args:
            batch: Scored responses; `group_ids` number the prompts.
            prompts: What they answer.

        Returns:
            Rows and prompts, with group i of the rows answering prompt i.
        """
        self.draws += 1
        kept = _informative(batch, prompts)
        if kept[1]:
            self.found.append(kept)
        enough = sum(len(asked) for _, asked in self.found) >= len(prompts)
        if not enough and self.draws < self.max_draws:
            return None
        found, self.found, self.draws = self.found, [], 0
        return _joined(found, prompts.task, len(prompts), batch.scores.device) if found else None

    def get_extra_state(self) -> dict[str, Any]:
        """Return what was gathered as tensors by field name and plain values, which load with `weights_only=True`."""
        found = [
            {"batch": _tensors(batch.to("cpu")), "examples": [_plain_fields(record) for record in asked]}
            for batch, asked in self.found
        ]
        return {"draws": self.draws, "found": found}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` returned."""
        self.draws = state["draws"]
        self.found = [(RolloutBatch(**piece["batch"]), list(piece["examples"])) for piece in state["found"]]


def _informative(batch: RolloutBatch, prompts: PromptBatch) -> Kept:
    scored = ~batch.scores.isnan()
    varies = varies_in_group(batch.scores, batch.group_ids, scored)
    groups = batch.group_ids[varies].unique()
    rows = torch.isin(batch.group_ids, groups).nonzero()[:, 0]
    return batch.select(rows), [_fields(prompts.examples[i]) for i in groups.tolist()]


def _joined(found: Sequence[Kept], task: Task, size: int, device: torch.device) -> Drawn:
    numbered, start = [], 0
    for batch, asked in found:
        # `unique` sorts, so the g-th smallest id belongs to the g-th example that was kept.
        ranks = batch.group_ids.unique(return_inverse=True)[1]
        numbered.append(batch.replace(group_ids=start + ranks).to(device))
        start += len(asked)
    batch = RolloutBatch.cat(numbered)
    records = [record for _, asked in found for record in asked][:size]
    return batch.select(batch.group_ids < size), PromptBatch(_examples(records, task), task)


def _tensors(batch: RolloutBatch) -> dict[str, torch.Tensor]:
    named = _fields(batch)
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain_fields(record: Record) -> Record:
    return {name: value for name, value in record.items() if _is_plain(value)} | {"uid": int(record["uid"])}


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint may hold it. Subclasses are not plain: loading them would need their code."""
    if type(value) is dict:
        return all(_is_plain(part) for item in value.items() for part in item)
    return type(value) in _PLAIN or (type(value) in (list, tuple) and all(_is_plain(part) for part in value))


def _examples(records: Sequence[Record], task: Task) -> list[Example]:
    """The examples with these fields. Those that lack one after a resume are looked up in the task's training split."""
    names = {field.name for field in fields(Example)}
    wanted = {record["uid"] for record in records if names - set(record)}
    split = task.examples("train") if wanted else []
    known = {split[i].uid: split[i] for i in range(len(split)) if split[i].uid in wanted}
    if wanted - set(known):
        raise UsageError(
            f"DynamicSampling: {len(wanted - set(known))} prompts of the checkpoint are not in the training split, and "
            "their answers are not plain values that a checkpoint can hold; resume with the same data."
        )
    return [known[record["uid"]] if record["uid"] in wanted else Example(**record) for record in records]
