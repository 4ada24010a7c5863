"""Statistics of the responses that answer one prompt draw. Groups may be ragged and stand in any order."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.checks import check_group_tensors, check_integers, check_ndim
from rl4llm.masked import at_least_float32, keep


def first_rows(places: Int[Tensor, " batch"], count: int) -> Int[Tensor, " place"]:
    """Return the first row that has each of the places 0, 1, ..., count − 1; every one must occur.

    Example:
        >>> first_rows(torch.tensor([1, 0, 1]), 2)
        tensor([1, 0])
    """
    check_ndim("first_rows", 1, axes="batch", places=places)
    check_integers("first_rows", places=places)
    rows = torch.arange(len(places), device=places.device)
    return rows.new_full((count,), len(places)).scatter_reduce(0, places, rows, "amin")


def dense_group_ids(group_ids: Int[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], int]:
    """Ids renumbered 0, 1, ... by first appearance, and how many there are.

    Example:
        >>> dense_group_ids(torch.tensor([7, 3, 7]))
        (tensor([0, 1, 0]), 2)
    """
    check_group_tensors("dense_group_ids", group_ids)
    unique, inverse = torch.unique(group_ids, return_inverse=True)
    return first_rows(inverse, len(unique)).argsort().argsort()[inverse], len(unique)


def position_in_group(group_ids: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """0 for the first row of each group, 1 for its second, and so on.

    Example:
        >>> position_in_group(torch.tensor([7, 3, 7]))
        tensor([0, 0, 1])
    """
    check_group_tensors("position_in_group", group_ids)
    order = group_ids.argsort(stable=True)
    grouped = group_ids[order]
    rows = torch.arange(len(group_ids), device=group_ids.device)
    starts = torch.ones_like(grouped, dtype=torch.bool)
    starts[1:] = grouped[1:] != grouped[:-1]
    first = torch.where(starts, rows, torch.zeros_like(rows)).cummax(0).values if len(rows) else rows
    return torch.empty_like(rows).scatter(0, order, rows - first)


@dataclass(frozen=True)
class _Groups:
    """Rows sorted into groups once; its methods check nothing and give every row the number of its group."""

    ids: Int[Tensor, " batch"]
    count: int

    def sum(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = torch.where(mask, at_least_float32(x), 0.0)
        return torch.zeros(self.count, dtype=kept.dtype, device=kept.device).index_add(0, self.ids, kept)[self.ids]

    def max(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = torch.where(mask, at_least_float32(x), -torch.inf)
        largest = torch.full((self.count,), -torch.inf, dtype=kept.dtype, device=kept.device)
        return largest.scatter_reduce(0, self.ids, kept, "amax")[self.ids]

    def size(self, mask: Tensor) -> Tensor:
        counts = torch.zeros(self.count, device=mask.device).index_add(0, self.ids, mask.float())
        return counts[self.ids]

    def mean(self, x: Tensor, mask: Tensor) -> Tensor:
        total = self.sum(x, mask)
        return total / self.size(mask).to(total.dtype).clamp(min=1)

    def varies(self, x: Tensor, mask: Tensor) -> Tensor:
        return mask & (self.max(x, mask) != -self.max(-x, mask))


def _groups(group_ids: Int[Tensor, " batch"]) -> _Groups:
    groups, ids = torch.unique(group_ids, return_inverse=True)
    return _Groups(ids, len(groups))


def group_sum(
    x: Float[Tensor, " batch"], group_ids: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Σ of x over the counted rows of each group, given back to every row of the group; float32 or wider.

    Example:
        >>> group_sum(torch.tensor([1.0, 5.0, 2.0]), torch.tensor([0, 1, 0]), torch.tensor([True, True, True]))
        tensor([3., 5., 3.])
    """
    check_group_tensors("group_sum", group_ids, x=x, mask=mask)
    return _groups(group_ids).sum(x, mask)


def group_max(
    x: Float[Tensor, " batch"], group_ids: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Largest counted x of each group, given back to every row; −inf where a group has no counted row."""
    check_group_tensors("group_max", group_ids, x=x, mask=mask)
    return _groups(group_ids).max(x, mask)


def group_count(group_ids: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """How many rows of each group count, given back to every row."""
    check_group_tensors("group_count", group_ids, mask=mask)
    return _groups(group_ids).size(mask)


def group_mean(
    x: Float[Tensor, " batch"], group_ids: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Mean of the counted rows of each group, given back to every row; 0 where none counts."""
    check_group_tensors("group_mean", group_ids, x=x, mask=mask)
    return _groups(group_ids).mean(x, mask)


def varies_in_group(
    x: Float[Tensor, " batch"], group_ids: Int[Tensor, " batch"], mask: Bool[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """True for the rows of groups whose counted values are not all exactly equal (so rounding never makes a signal)."""
    check_group_tensors("varies_in_group", group_ids, x=x, mask=mask)
    return _groups(group_ids).varies(x, mask)


def centred_in_group(
    x: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], counted: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """`x` minus the mean of its group's counted rows; 0 at the others and, exactly, where the counted are all equal.

    Example:
        >>> centred_in_group(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([0, 0, 1]), torch.tensor([True, True, True]))
        tensor([-1., 1., 0.])
    """
    check_group_tensors("centred_in_group", group_ids, x=x, counted=counted)
    x, groups = at_least_float32(x), _groups(group_ids)
    centred = x - groups.mean(x, counted)
    # The first mean is rounded at the size of x, not of its spread; the second pass takes what that left.
    centred = centred - groups.mean(centred, counted)
    return keep(centred, groups.varies(x, counted))


def group_std(
    centred: Float[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    counted: Bool[Tensor, " batch"],
    *,
    unbiased: bool = True,
) -> Float[Tensor, " batch"]:
    """Standard deviation of each group, given back to every row, from its centred counted rows; 0 below two of them.

    Example:
        >>> group_std(torch.tensor([-1.0, 1.0]), torch.tensor([0, 0]), torch.tensor([True, True]), unbiased=False)
        tensor([1., 1.])
    """
    check_group_tensors("group_std", group_ids, centred=centred, counted=counted)
    groups = _groups(group_ids)
    squares = groups.sum(centred**2, counted)
    return (squares / (groups.size(counted).to(squares.dtype) - int(unbiased)).clamp(min=1)).sqrt()
