"""Helpers for `segment_ids`: where the steps of a response begin, and consecutive numbers for them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.masked import keep


def segment_starts(
    segment_ids: Int[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"]
) -> Bool[Tensor, "batch time"]:
    """Return True at the first trained token of each segment, where the id differs from the previous trained token's.

    Example:
        >>> segment_starts(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[True, True, False, True]]))
        tensor([[ True, False, False,  True]])
    """
    check_token_tensors("segment_starts", response_mask, segment_ids=segment_ids)
    # Trained tokens move to the left edge, so that masked ones between them are stepped over.
    order = (~response_mask).byte().argsort(dim=-1, stable=True)
    packed = segment_ids.gather(-1, order)
    changes = torch.ones_like(response_mask)
    changes[:, 1:] = packed[:, 1:] != packed[:, :-1]
    return torch.empty_like(changes).scatter(-1, order, changes) & response_mask


def consecutive_segments(
    segment_ids: Int[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"]
) -> Int[Tensor, "batch time"]:
    """Renumber segment ids 0, 1, ... in the order of the trained tokens of a response; 0 at masked ones.

    Example:
        >>> consecutive_segments(torch.tensor([[4, 4, 5, 7]]), torch.tensor([[True, True, False, True]]))
        tensor([[0, 0, 0, 1]])
    """
    return keep(segment_starts(segment_ids, response_mask).cumsum(-1) - 1, response_mask)
