"""Log-probs, entropies and log-normalizers of tokens from hidden states, without full logits in memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_device, check_given, check_interval, check_ndim
from rl4llm.log_probs import Incoming, TokenLogProbs, check_ids, check_listed, chunk_statistics
from rl4llm.masked import at_least_float32

CHUNK_ELEMENTS = 2**25  # logits in memory at a time: 128 MiB in float32


@dataclass(frozen=True)
class HeadScale:
    """Scale, cap and temperature of the logits: x = cap · tanh(scale · z / cap) / temperature.

    Args:
        scale: Factor of the projection z.
        cap: Bound of the logits; None for none.
        temperature: Divisor of the capped logits.
    """

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    def __call__(self, z: Tensor) -> Tensor:
        """Turn projections into tempered logits, in place."""
        x = at_least_float32(z)
        if self.cap is None:
            factor = self.scale / self.temperature
            return x if factor == 1.0 else x.mul_(factor)
        return x.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)

    def slope_(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Turn the gradient of the tempered logits x into that of the projection, in place."""
        gradient.mul_(self.scale / self.temperature)
        if self.cap is None:
            return gradient
        return gradient.mul_(1 - (x * (self.temperature / self.cap)).square_())


def linear_log_probs(
    hidden: Float[Tensor, "*axes width"],
    weight: Float[Tensor, "vocab width"],
    ids: Int[Tensor, "*axes"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    soft_cap: float | None = None,
    entropy: bool = False,
    logsumexp: bool = False,
    chunk_size: int | None = None,
) -> Float[Tensor, "*axes"] | TokenLogProbs:
    """Compute log-probs of the given tokens from the hidden states before a language model's head.

        z = W h + b      x = cap · tanh(scale · z / cap) / temperature      L = log Σᵥ exp xᵥ
        log π(id) = x_id − L      H = −Σᵥ πᵥ log πᵥ

    The results equal those of [token_log_probs][rl4llm.log_probs.token_log_probs] on the logits, but only the logits of
    `chunk_size` positions are in memory at a time. The backward pass recomputes each chunk and skips positions whose
    results receive no gradient. If all positions fit into one chunk, its logits are kept and not recomputed. The matrix
    product uses the dtype of autocast if it is on, else the wider of the two inputs; everything after it is in float32
    (float64 for float64), and the gradient of a half-precision W is accumulated in float32.

    Args:
        hidden: h, the last hidden states of the model after its final norm, with gradient.
        weight: W, with gradient.
        ids: The token at each position; every one must be in the vocabulary, masked or not.
        bias: b, with gradient.
        temperature: What the logits are divided by.
        scale: Factor of the logits in the model (Cohere's `logit_scale`, the inverse of Granite's
            `logits_scaling`).
        soft_cap: Bound of the logits in the model (Gemma's `final_logit_softcapping`); None for none.
        entropy: Whether to return the entropies.
        logsumexp: Whether to return the log-normalizers.
        chunk_size: Positions per chunk; None for as many as fit into 128 MiB of float32.

    Returns:
        The log-probs alone, or a [TokenLogProbs][rl4llm.log_probs.TokenLogProbs] if more is asked; float32 (float64
        for float64 hidden states).

    Raises:
        UsageError: If shapes differ, ids are not integers in the vocabulary, or an option is out of range.

    Example:
        >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        >>> linear_log_probs(hidden, weight, torch.tensor([1]))
        tensor([-0.6931])
    """
    last = _checked_scale("linear_log_probs", scale, soft_cap, temperature)
    _check("linear_log_probs", hidden, weight, bias, ids, "ids.shape")
    check_ids("linear_log_probs", ids, len(weight))
    size = max(1, CHUNK_ELEMENTS // len(weight)) if chunk_size is None else chunk_size
    check_at_least("linear_log_probs", 1, chunk_size=size)
    flat, options = hidden.reshape(-1, hidden.shape[-1]), (last, entropy, size)
    results = _LinearStatistics.apply(flat, weight, bias, ids.reshape(-1).long(), *options)
    log_probs, normalizers = (x.reshape(ids.shape) for x in results[:2])
    if not (entropy or logsumexp):
        return log_probs
    entropies = results[2].reshape(ids.shape) if entropy else None
    return TokenLogProbs(log_probs, entropies, normalizers if logsumexp else None)


@torch.no_grad()
def listed_linear_log_probs(
    hidden: Float[Tensor, "*axes width"],
    weight: Float[Tensor, "vocab width"],
    ids: Int[Tensor, "*axes listed"],
    logsumexp: Float[Tensor, "*axes"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Float[Tensor, "*axes listed"]:
    """Compute log-probs of several tokens per position from the log-normalizer of [linear_log_probs][]; no gradient.

    Args:
        hidden: h, as for [linear_log_probs][].
        weight: W; only the rows of the listed tokens are read.
        ids: Some tokens at each position.
        logsumexp: L of each position.
        bias: b.
        temperature: Divisor of the logits.
        scale: Factor of the logits in the model.
        soft_cap: Bound of the logits in the model; None for none.

    Returns:
        log π of each listed token, in the dtype of `logsumexp`.

    Example:
        >>> hidden, weight = torch.tensor([[1.0]]), torch.zeros(4, 1)
        >>> listed_linear_log_probs(hidden, weight, torch.tensor([[0, 3]]), torch.tensor([4.0]).log())
        tensor([[-1.3863, -1.3863]])
    """
    by = "listed_linear_log_probs"
    last = _checked_scale(by, scale, soft_cap, temperature)
    _check(by, hidden, weight, bias, ids, "ids.shape[:-1]")
    check_given(by, logsumexp=logsumexp)
    check_listed(by, ids, len(weight), hidden=hidden[..., 0], logsumexp=logsumexp)
    dtype = _product_dtype(hidden, weight)
    z = [
        at_least_float32((weight[column].to(dtype) * hidden.to(dtype)).sum(-1))
        for column in ids.unbind(-1)  # one token per position at a time, to gather few rows of W
    ]
    x = last(torch.stack(z, -1) + (0.0 if bias is None else bias[ids]))
    return x.to(logsumexp.dtype) - logsumexp[..., None]


def _checked_scale(by: str, scale: float, soft_cap: float | None, temperature: float) -> HeadScale:
    check_interval(by, 0.0, ends="()", temperature=temperature, soft_cap=soft_cap)
    check_interval(by, -math.inf, ends="()", scale=scale)
    return HeadScale(scale, soft_cap, temperature)


def _check(
    by: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    positions: Literal["ids.shape", "ids.shape[:-1]"],
) -> None:
    check_ndim(by, 2, axes="vocab width", weight=weight)
    named = {"hidden": hidden, "ids": ids} | ({} if bias is None else {"bias": bias})
    check_given(by, **named)
    check_device(by, weight=weight, **named)
    vocab, width = weight.shape
    if hidden.shape != (*(ids.shape if positions == "ids.shape" else ids.shape[:-1]), width):
        raise UsageError(
            f"{by}: hidden has shape {tuple(hidden.shape)}, ids {tuple(ids.shape)}, weight {tuple(weight.shape)}; "
            f"expected hidden (*{positions}, {width})."
        )
    if bias is not None and bias.shape != (vocab,):
        raise UsageError(f"{by}: bias has shape {tuple(bias.shape)}; expected ({vocab},).")


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of autocast if it is on, else the wider of the two."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


class _LinearStatistics(torch.autograd.Function):
    """Forward and backward of [linear_log_probs][] over flattened positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        scale: HeadScale,
        entropy: bool,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype = _product_dtype(hidden, weight)
        log_probs = at_least_float32(hidden.new_empty(len(ids), dtype=torch.promote_types(dtype, hidden.dtype)))
        normalizers, entropies = torch.empty_like(log_probs), torch.empty_like(log_probs) if entropy else None
        head, kept = _Head(weight, bias, scale, dtype), None
        for at in _slices(len(ids), chunk_size):
            kept = head.logits(hidden[at])
            log_probs[at], normalizers[at], own = chunk_statistics(kept, ids[at], entropy=entropy)
            if entropies is not None and own is not None:
                entropies[at] = own
        kept = kept if len(ids) <= chunk_size else None
        ctx.save_for_backward(hidden, weight, bias, ids, normalizers, entropies, kept)
        ctx.set_materialize_grads(False)
        ctx.options = scale, chunk_size, dtype
        return log_probs, normalizers, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, normalizers, entropies, kept = ctx.saved_tensors
        scale, chunk_size, dtype = ctx.options
        incoming = Incoming(gradients, ids, normalizers, entropies)
        head, sums = _Head(weight, bias, scale, dtype), _Sums(hidden, weight, bias, ctx.needs_input_grad)
        for part in (~incoming.silent).nonzero()[:, 0].split(chunk_size):
            x = head.logits(hidden[part]) if kept is None else kept[part]
            sums.add(part, scale.slope_(incoming.slope(x, part), x), head.weight, hidden[part])
        return sums.hidden, sums.of_weight(), sums.of_bias(), None, None, None, None


class _Head:
    """Projection of a language model, cast once to the dtype of the product."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: HeadScale, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.scale = weight.to(dtype), bias, scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the tempered logits of some positions in float32 or wider, as a new tensor."""
        z = hidden.to(self.weight.dtype) @ self.weight.T
        z = at_least_float32(z)
        return self.scale(z if self.bias is None else z.add_(self.bias))


class _Sums:
    """Gradients of hidden states, weight and bias, accumulated chunk by chunk."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> None:
        self.hidden = torch.zeros_like(hidden) if needs[0] else None
        self._weight = _wide_zeros(weight) if needs[1] else None
        self._bias = _wide_zeros(bias) if bias is not None and needs[2] else None
        self._dtypes = weight.dtype, None if bias is None else bias.dtype

    def add(self, part: Tensor, slope: Tensor, weight: Tensor, hidden: Tensor) -> None:
        """Add the gradients from some positions, given the gradient `slope` of their projections."""
        narrow = slope.to(weight.dtype)
        if self.hidden is not None:
            self.hidden[part] = (narrow @ weight).to(self.hidden.dtype)
        if self._weight is not None:
            product_in = hidden.to(weight.dtype)
            if weight.dtype == self._weight.dtype:
                self._weight.addmm_(narrow.T, product_in)
            else:
                self._weight += narrow.T @ product_in
        if self._bias is not None:
            self._bias += slope.sum(0)

    def of_weight(self) -> Tensor | None:
        """Return the gradient of the weight in its dtype."""
        return None if self._weight is None else self._weight.to(self._dtypes[0])

    def of_bias(self) -> Tensor | None:
        """Return the gradient of the bias in its dtype."""
        return None if self._bias is None else self._bias.to(self._dtypes[1])


def _wide_zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
