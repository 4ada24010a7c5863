"""A clamp whose gradient at its bounds is the same in every version of torch."""

import torch
from torch import Tensor


def inclusive_clamp(x: Tensor, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Tensor:
    """Clamp x to [low, high], with slope 1 at the bounds as within them and 0 outside.

    `torch.clamp` has slope 1 there up to torch 2.14; in 2.15 it is 0, or 1/2 if the bounds are tensors.

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        >>> inclusive_clamp(x, high=0.0).sum().backward()
        >>> x.grad
        tensor([1., 1., 0.])
    """
    bounded = x.detach().clamp(low, high)  # type: ignore[arg-type]
    return torch.where(bounded == x, x, bounded)
