"""RMSNorm with the values that transformers' modules give, bit for bit, and a backward pass of its own."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call


class RMSNorm(nn.Module):
    """Root-mean-square normalization over features.

        y = w ⊙ n                                    n = x / √(mean(x²) + ε)

    Transformers writes it as six operations, each of which autograd reverses by itself. Here the backward pass is the
    closed form, from the normalized states n and their scale 1 / √(mean(x²) + ε) alone, with g the gradient of y:

        ∂x = (g ⊙ w − n · mean(g ⊙ w ⊙ n)) / √(mean(x²) + ε)                  ∂w = Σ g ⊙ n

    The forward pass is computed in float32 whatever the dtype, as in transformers, and the backward pass in float32 or
    float64. Gradients of gradients are refused by autograd.

    Args:
        weight: w, one number per feature.
        eps: ε.
        centered: Whether the weight is stored as w − 1, as in Gemma.
        rounds_first: Whether the normalized states take the dtype of the input before they are multiplied by the
            weight, as in Llama, or after, as in OLMo.

    Shape:
        Input and output `[..., features]`.

    Example:
        >>> norm = RMSNorm(nn.Parameter(torch.ones(2)), eps=0.0)
        >>> norm(torch.tensor([1.0, 7.0])).tolist()  # the root mean square is 5
        [0.20000000298023224, 1.399999976158142]

    Reference:
        Zhang & Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    def __init__(self, weight: nn.Parameter, *, eps: float, centered: bool = False, rounds_first: bool = True) -> None:
        super().__init__()
        self.weight = weight
        self.eps, self.centered, self.rounds_first = eps, centered, rounds_first

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize the states."""
        options = self.weight, self.eps, self.centered, self.rounds_first
        if torch.is_grad_enabled() and (hidden_states.requires_grad or self.weight.requires_grad):
            return cast(Tensor, _Differentiable.apply(hidden_states, *options))
        return _forward(hidden_states, *options)[0]

    def extra_repr(self) -> str:
        """Describe the module in the printed model."""
        return f"{len(self.weight)}, eps={self.eps}, centered={self.centered}, rounds_first={self.rounds_first}"


def _forward(x: Tensor, weight: Tensor, eps: float, centered: bool, rounds_first: bool) -> tuple[Tensor, ...]:
    """Return the output, the normalized states in float32, and the scale that normalized them."""
    wide = x.float()
    scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    normalized = wide * scale
    if rounds_first:
        return weight * normalized.to(x.dtype), normalized, scale
    factor = 1.0 + weight.float() if centered else weight
    return (factor * normalized).to(x.dtype), normalized, scale


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, centered: bool, rounds_first: bool) -> Tensor:
        output, normalized, scale = _forward(x, weight, eps, centered, rounds_first)
        ctx.save_for_backward(normalized, weight, scale)
        ctx.centered, ctx.dtype, ctx.weight_dtype = centered, x.dtype, weight.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide = torch.promote_types(grad.dtype, torch.float32)
        grad, normalized, weight, scale = (each.to(wide) for each in (grad, *ctx.saved_tensors))
        factor = 1.0 + weight if ctx.centered else weight
        along = grad * normalized
        for_x = for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = along.reshape(-1, len(weight)).sum(0).to(ctx.weight_dtype)
        if ctx.needs_input_grad[0]:
            mean = (along @ factor / len(weight)).unsqueeze(-1)
            for_x = (grad * factor).addcmul_(normalized, mean, value=-1).mul_(scale).to(ctx.dtype)
        return for_x, for_weight, None, None, None


def with_own_norms(model: nn.Module) -> nn.Module:
    """Put an `RMSNorm` in the place of every module of the model that gives the same values, and return the model.

    A module is replaced if it holds one weight and no more, and its output equals that of an `RMSNorm` bit for bit, in
    float32 and bfloat16, on random states and weights. Parameters stay the same objects under the same names. All
    others stay: norms with gates, without weights, of groups of features, or with values of their own.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            own = _own(module)
            if own is not None:
                setattr(parent, name, own)
    return model


def _own(module: nn.Module) -> RMSNorm | None:
    """Return an `RMSNorm` with the module's weight and values, if there is one."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    held = [*module.named_parameters(), *module.named_buffers()]
    if not isinstance(weight, nn.Parameter) or not isinstance(eps, float) or len(held) != 1:
        return None
    for centered, rounds_first in ((False, True), (False, False), (True, False)):
        own = RMSNorm(weight, eps=eps, centered=centered, rounds_first=rounds_first)
        if all(_equal(own, module, dtype) for dtype in (torch.float32, torch.bfloat16)):
            return own
    return None


@torch.no_grad()
def _equal(own: RMSNorm, module: nn.Module, dtype: torch.dtype) -> bool:
    random, features = torch.Generator().manual_seed(0), len(own.weight)
    states = 4 * torch.randn(8, features, generator=random).to(dtype)
    weight = {"weight": torch.randn(features, generator=random).to(dtype)}
    try:
        theirs = functional_call(module, weight, (states,))
    except Exception:  # it takes more than states
        return False
    ours = functional_call(own, weight, (states,))
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
