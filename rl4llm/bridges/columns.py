"""The columns of another library's batch as a `RolloutBatch`, on the same memory wherever the types allow it."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import UsageError, check_ndim, check_tensors
from rl4llm.masked import keep, masked_sum


def column(by: str, columns: Mapping[str, Any], name: str, remedy: str = "pass the whole batch") -> Tensor:
    """Return a column that the other library's batch must hold.

    Args:
        by: Name of the function that needs it, for the message.
        columns: The batch.
        name: Name of the column.
        remedy: What to do if it is missing.

    Returns:
        The tensor itself.

    Raises:
        UsageError: If it is missing or is not a tensor.

    Example:
        >>> column("f", {"advantages": torch.zeros(2)}, "advantages")
        tensor([0., 0.])
    """
    found = columns.get(name)
    if found is None:
        raise UsageError(
            f"{by}: the batch has no {name!r} (it holds {', '.join(sorted(columns)) or 'nothing'}); {remedy}."
        )
    check_tensors(by, **{name: found})
    return found


def truth(mask: Tensor) -> Bool[Tensor, "..."]:
    """Return a mask of numbers as truth values; a bool tensor is returned as it is.

    Example:
        >>> truth(torch.tensor([1, 0]))
        tensor([ True, False])
    """
    return mask.bool()


def group_numbers(names: Iterable[Any], device: torch.device | str = "cpu") -> Int[Tensor, " batch"]:
    """Return integer group ids for names of groups, numbered by first appearance.

    Args:
        names: One name per response, such as verl's `uid`: strings or integers, in a list, an array or a tensor.
        device: Where the ids are placed.

    Returns:
        One integer per response.

    Example:
        >>> group_numbers(["b", "a", "b"])
        tensor([0, 1, 0])
    """
    numbers: dict[Hashable, int] = {}
    listed = names.tolist() if hasattr(names, "tolist") else names  # two tensors are two keys, even of one number
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in listed], dtype=torch.long, device=device)


def over_tokens(per_response: Tensor, mask: Tensor) -> Float[Tensor, "batch time"]:
    """Return a view that repeats one number per response at every token; numbers per token are returned as they are.

    Example:
        >>> over_tokens(torch.tensor([1.0, 2.0]), torch.ones(2, 2, dtype=torch.bool))
        tensor([[1., 1.],
                [2., 2.]])
    """
    return per_response[:, None].expand(mask.shape) if per_response.ndim == 1 else per_response


def inside(
    rewards: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, " batch"]]:
    """Return token rewards that lie at trained tokens, and their sum per response.

    A reward at a token outside the mask (tool output that ends a response) is counted at the last trained token, since
    values outside the mask are never read. Where there is none, the rewards are returned as they are.

    Args:
        rewards: Token rewards of another library, 0 at padding.
        mask: True at trained tokens.

    Returns:
        The rewards and the scores.

    Example:
        >>> inside(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[True, True, False]]))
        (tensor([[0., 1., 0.]]), tensor([1.]))
    """
    outside = keep(rewards, ~mask).sum(-1).nan_to_num()
    if outside.any():
        rewards = keep(rewards, mask) + place_scores(outside, mask)
    return rewards, masked_sum(rewards, mask, dim=-1).to(rewards.dtype)


def batch_of(by: str, mask: Bool[Tensor, "batch time"], columns: Mapping[str, Tensor | None]) -> RolloutBatch:
    """Return a `RolloutBatch` of some of its columns.

    A column that the other library does not report gets a value that stands for unknown: a prompt of no tokens, a group
    of its own for every response, −1 for the stable identity of the prompt, False for truncated, NaN for scores and
    log-probs, and rewards that hold the scores. No column is copied.

    Args:
        by: Name of the function that builds it, for messages.
        mask: True at trained tokens.
        columns: Columns by their names in `RolloutBatch`; None is unknown.

    Returns:
        The batch.

    Raises:
        UsageError: If a column has the wrong shape.

    Example:
        >>> batch_of("f", torch.ones(2, 3, dtype=torch.bool), {"scores": torch.tensor([1.0, 0.0])}).rewards
        tensor([[0., 0., 1.],
                [0., 0., 0.]])
    """
    check_ndim(by, 2, axes="batch time", response_mask=mask)
    known = {name: tensor for name, tensor in columns.items() if tensor is not None}
    rows, device = mask.shape[0], mask.device
    unknown = torch.full((), torch.nan, device=device)
    scores = known.get("scores", unknown.expand(rows))
    nothing: dict[str, Tensor] = {
        "prompt_ids": torch.zeros(rows, 0, dtype=torch.long, device=device),
        "prompt_mask": torch.zeros(rows, 0, dtype=torch.bool, device=device),
        "response_ids": torch.zeros((), dtype=torch.long, device=device).expand(mask.shape),
        "group_ids": torch.arange(rows, device=device),
        "prompt_uids": torch.full((), -1, device=device).expand(rows),
        "truncated": torch.zeros((), dtype=torch.bool, device=device).expand(rows),
        "scores": scores,
        "rollout_log_probs": unknown.expand(mask.shape),
        "old_log_probs": unknown.expand(mask.shape),
    }
    if "rewards" not in known:
        known["rewards"] = place_scores(scores, mask)
    try:
        return RolloutBatch(response_mask=mask, **{**nothing, **known})
    except UsageError as error:
        raise UsageError(f"{by}: {error}") from error
