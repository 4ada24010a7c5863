"""A first-order linear recursion, backwards in time, without one step of Python for every token."""

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import pad

from rl4llm.masked import at_least_float32

_BLOCK = 64


def reverse_linear_scan(a: Num[Tensor, "..."] | float, b: Num[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
    """Solution of a linear recursion that runs from the last column to the first.

        xₜ = aₜ xₜ₊₁ + bₜ,  x_T = 0

    Columns are cut into blocks: one loop over the positions of a block serves all blocks at once, a second one over
    the blocks carries x from each to the one before. So T/64 + 64 steps instead of T, in float32 or wider. Every aₜ
    may be zero; products of up to 64 of them must not overflow, which |a| ≤ 1 ensures.

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
    inputs = at_least_float32(b)
    coefficients = torch.as_tensor(a, dtype=inputs.dtype, device=inputs.device).expand(inputs.shape)
    time = inputs.shape[-1]
    if time == 0:
        return inputs.clone()
    block = min(_BLOCK, time)
    count = -(-time // block)
    a_blocks, b_blocks = (
        pad(x, (0, count * block - time)).unflatten(-1, (count, block)) for x in (coefficients, inputs)
    )
    local, decay = [torch.zeros_like(b_blocks[..., 0])], [torch.ones_like(a_blocks[..., 0])]
    for position in reversed(range(block)):
        local.append(a_blocks[..., position] * local[-1] + b_blocks[..., position])
        decay.append(a_blocks[..., position] * decay[-1])
    carries = [torch.zeros_like(local[-1][..., 0])]
    for index in reversed(range(1, count)):
        carries.append(local[-1][..., index] + decay[-1][..., index] * carries[-1])
    carry = torch.stack(carries[::-1], -1)[..., None]
    x = torch.stack(local[:0:-1], -1) + torch.stack(decay[:0:-1], -1) * carry
    return x.flatten(-2)[..., :time]
