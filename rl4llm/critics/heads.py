"""`Float32Linear`: the last layer of value heads, kept in float32 when the rest of the model is narrower."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_WIDTH = torch.float32.itemsize


class Float32Linear(nn.Linear):
    """An affine layer whose weights stay in float32 at least, whatever precision the module around it is cast to.

    Value losses are small differences of values: in bfloat16 a value of 1 moves in steps of 1/128. Inputs are widened
    before the product, also under autocast.

    Args:
        inputs: Width of the hidden states.
        outputs: Numbers given at each position.

    Example:
        >>> layer = Float32Linear(4, 1).to(torch.bfloat16)
        >>> layer.weight.dtype, layer(torch.ones(1, 4, dtype=torch.bfloat16)).dtype
        (torch.float32, torch.float32)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, dtype=torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def widest(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = moved.is_floating_point() and moved.dtype.itemsize < _WIDTH
            return tensor.to(moved.device) if narrowed else moved

        return super()._apply(widest, recurse)

    def forward(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes outputs"]:
        """The layer's outputs in float32, or in float64 where it was widened to that."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
