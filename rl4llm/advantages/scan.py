"""A first-order linear recursion, backwards in time, without one Python step per token."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rl4llm.checks import check_given
from rl4llm.masked import at_least_float32

_BLOCK = 64


@torch.no_grad()
def reverse_linear_scan(a: Num[Tensor, "..."] | float, b: Num[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
    """Solve a linear recursion that runs from the last column to the first.

        xₜ = aₜ xₜ₊₁ + bₜ,  x_T = 0

    Columns are cut into blocks: one loop over the positions of a block serves all blocks at once, a second one over
    the blocks carries x from each to the one before. So T/64 + 64 steps instead of T, each on columns that lie
    together in memory, in float32 or wider. Every aₜ may be zero; products of up to 64 of them must not overflow, which
    |a| ≤ 1 ensures. No gradient flows.

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
    time = inputs.shape[-1]
    if not inputs.numel():
        return inputs.clone()
    block = min(_BLOCK, time)
    x = _blocks(inputs, block)
    if isinstance(a, Tensor) and a.ndim:
        decay = _blocks(torch.as_tensor(a, dtype=inputs.dtype, device=inputs.device).expand(inputs.shape), block)
        for position in range(block - 2, -1, -1):
            x[position].addcmul_(decay[position], x[position + 1])
            decay[position].mul_(decay[position + 1])
    else:
        factor = float(a)
        decay = inputs.new_full((block, 1, 1), factor).cumprod(0).flip(0)
        for position in range(block - 2, -1, -1):
            x[position].add_(x[position + 1], alpha=factor)
    first = decay[0].expand_as(x[0])
    carry = torch.zeros_like(x[0])
    for index in range(carry.shape[-1] - 2, -1, -1):
        carry[:, index] = x[0, :, index + 1] + first[:, index + 1] * carry[:, index + 1]
    x.addcmul_(decay, carry)
    return x.movedim(0, -1).flatten(-2)[:, :time].reshape(inputs.shape)


def _blocks(x: Tensor, block: int) -> Tensor:
    """Copy x into the layout (position in block, row, block), padded with zeros."""
    count = -(-x.shape[-1] // block)
    whole = x.new_zeros(x.shape[:-1].numel(), count * block)
    whole[:, : x.shape[-1]] = x.reshape(-1, x.shape[-1])
    return whole.unflatten(-1, (count, block)).movedim(-1, 0).clone(memory_format=torch.contiguous_format)
