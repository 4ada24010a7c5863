"""A first-order linear recursion, backwards in time, without one Python step per token."""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rl4llm.checks import check_given
from rl4llm.masked import at_least_float32

_BLOCK = 16


@torch.no_grad()
def reverse_linear_scan(a: Num[Tensor, "..."] | float, b: Num[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
    """Solve a linear recursion that runs from the last column to the first.

        xₜ = aₜ xₜ₊₁ + bₜ,  x_T = 0

    Columns are cut into blocks of 16, and one loop over the positions of a block serves all blocks at once, on columns
    that lie together in memory. The first columns of the blocks obey a recursion of the same form, which is solved in
    the same way. So about 15 log₁₆ T steps instead of T, in float32 or wider. Every aₜ may be zero; products of
    consecutive ones must not overflow, which |a| ≤ 1 ensures. No gradient flows.

    Args:
        a: Coefficients, a number or anything that broadcasts to the shape of `b`.
        b: Inputs, t in [0, T) along the last axis.

    Returns:
        x, in the shape of `b` and in float32 or wider.

    Example:
        >>> reverse_linear_scan(0.5, torch.tensor([0.0, 0.0, 4.0]))
        tensor([1., 2., 4.])

    References:
        Blelloch, 1990. Prefix sums and their applications, CMU-CS-90-190, §1.4 (recurrences).
    """
    check_given("reverse_linear_scan", b=b)
    inputs = at_least_float32(b)
    if not inputs.numel():
        return inputs.clone()
    rows = inputs.reshape(-1, inputs.shape[-1])
    if isinstance(a, Tensor) and a.ndim:
        coefficients = torch.as_tensor(a, dtype=inputs.dtype, device=inputs.device).expand(inputs.shape)
        return _scanned(coefficients.reshape(rows.shape), rows).reshape(inputs.shape)
    return _scanned(float(a), rows).reshape(inputs.shape)


def _scanned(a: Tensor | float, b: Tensor) -> Tensor:
    """Solve the recursion for rows of b within each block, then, for the first columns of the blocks, across them."""
    time = b.shape[-1]
    block = min(_BLOCK, time)
    x = _blocks(b, block)
    first: Tensor | float
    if isinstance(a, Tensor):
        decay = _blocks(a, block)
        for (now, later), (own, following) in zip(_backwards(x), _backwards(decay), strict=True):
            now.addcmul_(own, later)
            own.mul_(following)
        first = decay[0]
    else:
        decay = b.new_full((block, 1, 1), a).cumprod(0).flip(0).expand_as(x)
        for now, later in _backwards(x):
            now.add_(later, alpha=a)
        first = math.prod([a] * block)
    if time > block:
        received = _scanned(first, x[0])[:, 1:]
        x[..., :-1].addcmul_(decay[..., :-1], received)
    return x.movedim(0, -1).flatten(-2)[:, :time]


def _backwards(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each slice of the first axis with the one after it, from the last pair to the first."""
    slices = x.unbind()
    return list(zip(slices[-2::-1], slices[:0:-1], strict=True))


def _blocks(x: Tensor, block: int) -> Tensor:
    """Copy x into the layout (position in block, row, block), padded with zeros."""
    whole, rest = divmod(x.shape[-1], block)
    blocks = x.new_zeros(block, x.shape[0], whole + (rest > 0))
    blocks[..., :whole] = x[:, : whole * block].unflatten(-1, (whole, block)).movedim(-1, 0)
    if rest:
        blocks[:rest, :, whole] = x[:, whole * block :].T
    return blocks
