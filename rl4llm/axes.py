"""Named tensor axes: read from jaxtyping annotations and used to pad, cut, align and check tensors."""

from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

from torch import Tensor
from torch.nn.functional import pad

from rl4llm.checks import UsageError

Axes = tuple[str, ...]

PADDING: Mapping[str, str] = {"prompt": "left", "time": "right"}
"""The axes along which rows differ in length, and the side on which the shorter ones are padded."""


def axes_of(annotation: Any) -> Axes:
    """Return the names of the axes in a jaxtyping annotation, which may be optional.

    Example:
        >>> from jaxtyping import Float
        >>> axes_of(Float[Tensor, "critic batch time"] | None)
        ('critic', 'batch', 'time')
    """
    return tuple(_array(annotation).dim_str.split())


def dtype_of(annotation: Any) -> str:
    """Return the kind of numbers in a jaxtyping annotation, which may be optional.

    Example:
        >>> from jaxtyping import Float
        >>> dtype_of(Float[Tensor, " batch"] | None)
        'Float'
    """
    return _array(annotation).dtype.__name__


def _array(annotation: Any) -> Any:
    (array,) = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return array


def padded(tensor: Tensor, axes: Axes, widths: Mapping[str, int]) -> Tensor:
    """Pad a tensor with zeros to the given widths of its padded axes.

    Example:
        >>> import torch
        >>> padded(torch.tensor([[1, 2]]), ("batch", "prompt"), {"prompt": 3, "time": 9})
        tensor([[0, 1, 2]])
    """
    pads: list[int] = []
    for axis, size in zip(reversed(axes), reversed(tensor.shape), strict=True):
        missing = widths.get(axis, size) - size
        pads += (missing, 0) if PADDING.get(axis) == "left" else (0, missing)
    while pads[-2:] == [0, 0]:  # torch 2.6 pads no axis that is empty, not even by 0
        del pads[-2:]
    return pad(tensor, pads)


def cut(tensor: Tensor, axes: Axes, kept: Mapping[str, slice]) -> Tensor:
    """Return only some columns of the named axes; axes that the tensor does not have are skipped.

    Example:
        >>> import torch
        >>> cut(torch.tensor([[1, 2, 3]]), ("batch", "time"), {"time": slice(2), "prompt": slice(1, None)})
        tensor([[1, 2]])
    """
    return tensor[tuple(kept.get(axis, slice(None)) for axis in axes)]


def aligned(tensor: Tensor, own: Axes, axes: Axes) -> Tensor:
    """Return a view that broadcasts against tensors with more axes, given in the same order.

    Example:
        >>> import torch
        >>> aligned(torch.zeros(2, 3), ("batch", "time"), ("batch", "time", "top")).shape
        torch.Size([2, 3, 1])
    """
    sizes = dict(zip(own, tensor.shape, strict=True))
    return tensor.reshape([sizes.get(axis, 1) for axis in axes])


def check_axes(by: str, tensors: Mapping[str, Tensor], axes: Mapping[str, Axes], sizes: Mapping[str, int]) -> None:
    """Raise unless every tensor has its axes, and axes of one name have one size.

    Args:
        by: Whom the message names.
        tensors: By name.
        axes: Of each tensor, by its name.
        sizes: Of the axes whose size is known; that of any other axis is taken from the first tensor that has it.

    Raises:
        UsageError: Naming the tensor, its shape, and the expected size of each axis.

    Example:
        >>> import torch
        >>> check_axes("f", {"x": torch.zeros(2, 3)}, {"x": ("batch", "time")}, {"batch": 2, "time": 4})
        Traceback (most recent call last):
            ...
        rl4llm.errors.UsageError: f: x has shape (2, 3); expected (batch=2, time=4).
    """
    known = dict(sizes)
    for name, tensor in tensors.items():
        expected, got = axes[name], tuple(tensor.shape)
        fits = len(got) == len(expected) and all(
            known.get(axis, size) == size for axis, size in zip(expected, got, strict=True)
        )
        if not fits:
            shown = ", ".join(f"{axis}={known[axis]}" if axis in known else axis for axis in expected)
            raise UsageError(f"{by}: {name} has shape {got}; expected ({shown}).")
        known.update(zip(expected, got, strict=True))
