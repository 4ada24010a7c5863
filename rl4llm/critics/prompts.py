"""Identities of prompts for value sources, and prefixes that several responses share."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError


def check_uids(by: str, uids: Int[Tensor, " prompt"]) -> Int[Tensor, " prompt"]:
    """Return the uids on the CPU. Raises if a prompt has none (a negative one)."""
    uids = uids.cpu().long()
    if (uids < 0).any():
        raise UsageError(
            f"{by} needs prompt identities to tell prompts apart, but a prompt has uid {int(uids.min())}; give every "
            "prompt of the data set its own uid of at least 0."
        )
    return uids


def find(
    uids: Int[Tensor, " prompt"], known: Int[Tensor, " entry"]
) -> tuple[Int[Tensor, " prompt"], Bool[Tensor, " prompt"]]:
    """Return the position of each uid in the ascending `known`, and whether it is there (else any position).

    Example:
        >>> find(torch.tensor([7, 4]), torch.tensor([3, 7]))
        (tensor([1, 1]), tensor([ True, False]))
    """
    if not len(known):
        return torch.zeros_like(uids), torch.zeros_like(uids, dtype=torch.bool)
    positions = torch.searchsorted(known, uids).clamp(max=len(known) - 1)
    return positions, known[positions] == uids


def distinct_prefixes(
    batch: RolloutBatch, rows: Int[Tensor, " cut"], cuts: Int[Tensor, " cut"]
) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " cut"]]:
    """Return the distinct cut responses, and for each response the index of its distinct one.

    Two are the same where the tokens of the prompt and of the response before the cut are.

    Args:
        batch: The rollout batch.
        rows: Which response is cut, one entry a cut.
        cuts: Before which column.
    """
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    responses = batch.response_ids.tolist()
    first: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    asked: list[int] = []
    stands_for: list[int] = []
    for place, (row, cut) in enumerate(zip(rows.tolist(), cuts.tolist(), strict=True)):
        prefix = (tuple(prompts[row]), tuple(responses[row][:cut]))
        if prefix not in first:
            first[prefix] = len(asked)
            asked.append(place)
        stands_for.append(first[prefix])
    return torch.tensor(asked, device=rows.device).long(), torch.tensor(stands_for, device=rows.device).long()
