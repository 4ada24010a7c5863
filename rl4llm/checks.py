"""Checks at the edge of every public function: one line that says what came, where, and what to do."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from rl4llm.errors import UsageError
from rl4llm.roles import check_booleans, check_integers, check_roles

LARGEST_WEIGHT = 1e6  # a model with a weight beyond this has diverged: it is neither trained on nor saved


def _sizes(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def kind_of(given: object) -> str:
    """Describe a value for an error message: dtype and shape of a tensor, the type of anything else.

    Example:
        >>> import torch
        >>> kind_of(torch.zeros(2, 3)), kind_of(None)
        ('float32 of shape (2, 3)', 'NoneType')
    """
    if isinstance(given, Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} of shape {_sizes(given)}"
    return type(given).__name__


def check_tensors(by: str, **given: object) -> None:
    """Raise unless everything given is a tensor (None is skipped): lists and arrays would fail later and elsewhere."""
    for name, x in given.items():
        if x is not None and not isinstance(x, Tensor):
            raise UsageError(
                f"{by}: {name} is of type {type(x).__name__}; pass a tensor, such as torch.as_tensor({name})."
            )


def check_given(by: str, **tensors: object) -> None:
    """Raise unless every argument is a tensor and none is None."""
    for name, x in tensors.items():
        if x is None:
            raise UsageError(f"{by}: {name} is None; pass a tensor.")
    check_tensors(by, **tensors)


def check_same_shape(by: str, *, remedy: str = "pass one entry per response token", **tensors: Tensor) -> None:
    """Raise unless all tensors have the shape and the device of the first.

    Raises:
        UsageError: Naming the argument, both shapes and the remedy.
    """
    check_given(by, **tensors)
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.shape != first.shape:
            raise UsageError(f"{by}: {name} has shape {_sizes(tensor)}, {first_name} {_sizes(first)}; {remedy}.")
    check_device(by, **tensors)


def check_device(by: str, **tensors: Tensor) -> None:
    """Raise unless all tensors are on the device of the first."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != first.device:
            raise UsageError(
                f"{by}: {name} is on {tensor.device}, {first_name} on {first.device}; pass "
                f"{name}.to({first_name}.device)."
            )


def check_ndim(by: str, ndim: int, *, axes: str, **tensors: Tensor) -> None:
    """Raise unless every tensor has `ndim` axes; `axes` names them in the message."""
    check_given(by, **tensors)
    for name, tensor in tensors.items():
        if tensor.ndim != ndim:
            raise UsageError(f"{by}: {name} has shape {_sizes(tensor)}; expected {ndim} axes: {axes}.")


def check_mask(by: str, **masks: Tensor) -> None:
    """Raise unless every mask is a boolean tensor."""
    check_given(by, **masks)
    check_booleans(by, **masks)


def check_token_tensors(by: str, response_mask: Tensor, *, remedy: str | None = None, **tensors: Tensor) -> None:
    """Raise unless the mask is boolean batch × time and every other tensor has its shape."""
    check_mask(by, response_mask=response_mask)
    check_ndim(by, 2, axes="batch time", response_mask=response_mask)
    check_given(by, **tensors)
    for name, tensor in tensors.items():
        if tensor.shape != response_mask.shape:
            hint = remedy or _token_hint(name, tensor, response_mask)
            raise UsageError(f"{by}: {name} has shape {_sizes(tensor)}, response_mask {_sizes(response_mask)}; {hint}.")
    check_device(by, response_mask=response_mask, **tensors)
    check_roles(by, response_mask, **tensors)


def _token_hint(name: str, tensor: Tensor, response_mask: Tensor) -> str:
    if name == "values":
        return "pass one value per token; for critic_values use critic_mean"
    if tensor.shape == response_mask.shape[:1] and name == "rewards":
        return "place one score per response at its last token: rl4llm.batch.place_scores(scores, response_mask)"
    if tensor.shape == response_mask.shape[:1]:
        return f"spread one number per response over its tokens: rl4llm.masked.spread({name}, response_mask)"
    return "pass one entry per response token"


def check_group_tensors(by: str, group_ids: Tensor, **tensors: Tensor) -> None:
    """Raise unless `group_ids` is an integer vector and every other tensor has its shape."""
    check_ndim(by, 1, axes="batch", group_ids=group_ids)
    check_integers(by, group_ids=group_ids)
    _check_rows(by, "group_ids", group_ids, tensors)


def check_response_tensors(by: str, response_mask: Tensor, **tensors: Tensor) -> None:
    """Raise unless every tensor has one entry per row of the mask."""
    check_mask(by, response_mask=response_mask)
    _check_rows(by, "response_mask", response_mask, tensors)


def _check_rows(by: str, name: str, rows: Tensor, tensors: dict[str, Tensor]) -> None:
    """Raise unless every tensor has one entry per row of `rows`, the argument `name`."""
    check_given(by, **tensors)
    for other, tensor in tensors.items():
        if tensor.shape != rows.shape[:1]:
            raise UsageError(
                f"{by}: {other} has shape {_sizes(tensor)}, {name} {_sizes(rows)}; pass one entry per response."
            )
    check_device(by, **{name: rows}, **tensors)
    check_roles(by, **tensors)


def check_critic_values(by: str, critic_values: Tensor, response_mask: Tensor) -> None:
    """Raise unless `critic_values` is critic × batch × time over a batch × time mask."""
    check_token_tensors(by, response_mask)
    check_given(by, critic_values=critic_values)
    if critic_values.ndim != 3 or critic_values.shape[1:] != response_mask.shape or critic_values.shape[0] == 0:
        raise UsageError(
            f"{by}: critic_values has shape {_sizes(critic_values)}, response_mask {_sizes(response_mask)}; "
            "expected (critic, *response_mask.shape): stack the critics' values along a first axis."
        )
    check_device(by, response_mask=response_mask, critic_values=critic_values)


def check_interval(
    by: str, low: float = -math.inf, high: float = math.inf, /, ends: str = "[]", **values: float | int | None
) -> None:
    """Raise unless each value (None is skipped) is a number between the bounds; NaN never is.

    `ends` says whether each bound is allowed: "[]" both, "[)" the lower only, "(]" the upper only, "()" neither.
    """
    left, right = ends[0], ends[1]
    for name, value in values.items():
        if value is None:
            continue
        try:
            above = value > low if left == "(" else value >= low
            below = value < high if right == ")" else value <= high
        except TypeError:  # a text or a list
            raise UsageError(
                f"{by}: {name} must be a number in {left}{low:g}, {high:g}{right}, got {value!r}."
            ) from None
        if not (above and below):
            raise UsageError(f"{by}: {name} must be in {left}{low:g}, {high:g}{right}, got {value}.")


def check_range(by: str, *, low: float, high: float) -> None:
    """Raise unless `low` and `high` are finite and enclose an interval."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"{by}: low must be below high and both finite, got low={low}, high={high}.")


def check_fraction(by: str, **fractions: float) -> None:
    """Raise unless each is a share in [0, 1): the part of the response tokens that is dropped."""
    check_interval(by, 0.0, 1.0, "[)", **fractions)


def check_at_least(by: str, minimum: int, **counts: int | None) -> None:
    """Raise unless each count (None is skipped) is a whole number of at least `minimum`."""
    for name, count in counts.items():
        if count is not None and not (_is_whole(count) and count >= minimum):
            shown = repr(count) if isinstance(count, str) else count
            raise UsageError(f"{by}: {name} must be a whole number of at least {minimum}, got {shown}.")


def _is_whole(count: Any) -> bool:
    try:
        return not isinstance(count, bool | str) and int(count) == count
    except (TypeError, ValueError, OverflowError):  # a list, NaN, infinity
        return False


def check_choice(by: str, choices: Iterable[Any], **values: Any) -> None:
    """Raise unless each value is one of the choices."""
    choices = list(choices)
    for name, value in values.items():
        if value not in choices:
            raise UsageError(f"{by}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
