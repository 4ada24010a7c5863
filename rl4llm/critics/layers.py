"""`ValueHead`: the one layer between hidden states and a head's outputs, in float32 whatever the model around it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rl4llm.critics.heads import Head

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


class ValueHead(nn.Module):
    """From a hidden state to what a [Head][rl4llm.critics.heads.Head] reads values from.

        z = W h + b        Wᵢⱼ ~ N(0, scale²/width)        b = 0

    Args:
        width: Of the hidden states.
        choice: Which head: how many outputs, and how they say a value.
        scale: Standard deviation of the weights, times 1/√width; 0 starts all values at the head's middle.
        generator: Of the weights.

    Example:
        >>> from rl4llm.critics import BoundedHead
        >>> layer = ValueHead(4, BoundedHead(), scale=0.0)
        >>> layer.choice.value(layer(torch.ones(1, 2, 4)))
        tensor([[0.5000, 0.5000]], grad_fn=...)
    """

    def __init__(
        self, width: int, choice: Head, *, scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.affine, self.choice = Float32Linear(width, choice.size), choice
        nn.init.normal_(self.affine.weight, std=scale * width**-0.5, generator=generator)
        nn.init.zeros_(self.affine.bias)

    def forward(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes output"]:
        """The outputs at every position, in float32 or wider."""
        outputs: Tensor = self.affine(hidden)
        return outputs
