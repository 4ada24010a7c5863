"""Bounded values: an arctangent keeps them within the range of the returns."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.checks import check_given, check_range
from rl4llm.masked import at_least_float32


def bounded_value(logits: Float[Tensor, "*axes"], *, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "*axes"]:
    """Map any logit to a value between two bounds.

        V = low + (high − low) (½ + arctan(z)/π)        dV/dz = (high − low) / (π (1 + z²))

    V(0) is the middle, and V(z) + V(−z) = low + high. With Monte-Carlo returns in the same range, a success never has
    a negative advantage and a failure never a positive one. The slope falls with 1/z², where a sigmoid's falls with
    exp(−|z|): a value at a bound can still be taught. Pointwise: a masked position holds whatever its logit says, to
    be ignored downstream. Computed in float32 or wider.

    Args:
        logits: z, of any shape.
        low: Lower bound, the smallest return.
        high: Upper bound, the largest return.

    Returns:
        V in the dtype of `logits`, with gradient.

    Raises:
        UsageError: If `low` is not below `high`, or one is not finite.

    Example:
        >>> bounded_value(torch.tensor([-1.0, 0.0, 1.0]), low=0.0, high=1.0)
        tensor([0.2500, 0.5000, 0.7500])

    References:
        Qi et al., 2026. arXiv:2608.23566 (BPCO).
    """
    check_range("bounded_value", low=low, high=high)
    check_given("bounded_value", logits=logits)
    wide = at_least_float32(logits)
    ends = wide.new_tensor([low, high])
    return torch.lerp(ends[0], ends[1], 0.5 + wide.atan() / math.pi).to(logits.dtype)
