"""Forward and backward of `linear_log_probs`, tile by tile: some positions times some tokens of the vocabulary."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl4llm.logit_statistics import Incoming, chunk_statistics, joined_statistics
from rl4llm.masked import at_least_float32

KEPT_LOGITS = 2**25  # up to this many are kept for the backward pass instead of recomputed: 128 MiB in float32
TILE_LOGITS = 2**22  # of a tile
TILE_TOKENS = 4096  # of the vocabulary in a tile; matrix products are slower with less in either direction


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


@dataclass(frozen=True)
class Tiles:
    """How the logits, positions × vocabulary, are cut into tiles.

    Args:
        positions: Of a tile.
        tokens: Of a tile.
        vocab: All tokens.
    """

    positions: int
    tokens: int
    vocab: int

    @classmethod
    def of(cls, count: int, vocab: int, positions: int | None) -> "Tiles":
        """Choose one tile if its logits may be kept, else tiles of the given number of positions."""
        if count <= (max(1, KEPT_LOGITS // vocab) if positions is None else positions):
            return cls(max(1, count), vocab, vocab)
        tokens = min(vocab, TILE_TOKENS)
        return cls(positions or max(1, TILE_LOGITS // tokens), tokens, vocab)

    def is_one(self, count: int) -> bool:
        """Whether one tile holds the logits of so many positions."""
        return count <= self.positions and self.tokens == self.vocab

    def columns(self) -> Iterator[slice]:
        """The tokens of each tile of the same positions."""
        return (slice(start, start + self.tokens) for start in range(0, self.vocab, self.tokens))


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of autocast if it is on, else the wider of the two."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


class LinearStatistics(torch.autograd.Function):
    """Log-probs, log-normalizers and on request entropies of flattened positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        scale: HeadScale,
        entropy: bool,
        positions: int | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the statistics, and keep the logits if a single tile holds all of them."""
        head = _Head(weight, bias, scale, product_dtype(hidden, weight))
        tiles = Tiles.of(len(ids), len(weight), positions)
        log_probs = at_least_float32(hidden.new_empty(len(ids), dtype=torch.promote_types(head.dtype, hidden.dtype)))
        normalizers, entropies = torch.empty_like(log_probs), torch.empty_like(log_probs) if entropy else None
        kept = None
        for start in range(0, len(ids), tiles.positions):
            at, parts = slice(start, start + tiles.positions), []
            own = hidden[at].to(head.dtype)
            for tokens in tiles.columns():
                kept = head.logits(own, head.rows(tokens), tokens)
                parts.append(chunk_statistics(kept, ids[at] - tokens.start, entropy=entropy))
            found = joined_statistics(parts)
            log_probs[at], normalizers[at] = found.logits - found.logsumexp, found.logsumexp
            if entropies is not None and found.entropies is not None:
                entropies[at] = found.entropies
        kept = kept if tiles.is_one(len(ids)) else None
        ctx.save_for_backward(hidden, weight, bias, ids, normalizers, entropies, kept)
        ctx.set_materialize_grads(False)
        ctx.options = scale, tiles, head.dtype
        return log_probs, normalizers, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of hidden states, weight and bias."""
        hidden, weight, bias, ids, normalizers, entropies, kept = ctx.saved_tensors
        scale, tiles, dtype = ctx.options
        incoming = Incoming(gradients, ids, normalizers, entropies)
        head, sums = _Head(weight, bias, scale, dtype), _Sums(hidden, weight, bias, ctx.needs_input_grad)
        for part in (~incoming.silent).nonzero()[:, 0].split(tiles.positions):
            own = hidden[part].to(dtype)
            sums.add(part, own, _slopes(head, tiles, incoming, part, own, kept))
        return sums.hidden, sums.of_weight(), sums.of_bias(), None, None, None, None


def _slopes(
    head: "_Head", tiles: Tiles, incoming: Incoming, part: Tensor, hidden: Tensor, kept: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield the tokens of each tile, their weights, and the gradient of their projections at some positions."""
    for tokens in tiles.columns():
        weight = head.rows(tokens)
        x = head.logits(hidden, weight, tokens) if kept is None else kept[part]
        yield tokens, weight, head.scale.slope_(incoming.slope(x, part, tokens.start), x)


class _Head:
    """Projection of a language model; its products are in the given dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: HeadScale, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.scale, self.dtype = weight, bias, scale, dtype

    def rows(self, tokens: slice) -> Tensor:
        """Return the weights of some tokens."""
        return self.weight[tokens].to(self.dtype)

    def logits(self, hidden: Tensor, weight: Tensor, tokens: slice) -> Tensor:
        """Compute the tempered logits of some positions and tokens in float32 or wider, as a new tensor."""
        z = at_least_float32(hidden @ weight.T)
        return self.scale(z if self.bias is None else z.add_(self.bias[tokens]))


class _Sums:
    """Gradients of hidden states, weight and bias; sums over positions or tokens are in float32 or wider."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]) -> None:
        self.hidden = torch.zeros_like(hidden) if needs[0] else None
        self._weight = _wide_zeros(weight) if needs[1] else None
        self._bias = _wide_zeros(bias) if bias is not None and needs[2] else None
        self._dtypes = weight.dtype, None if bias is None else bias.dtype

    def add(self, part: Tensor, hidden: Tensor, tiles: Iterable[tuple[slice, Tensor, Tensor]]) -> None:
        """Add the gradients from some positions.

        Args:
            part: The positions.
            hidden: Their hidden states.
            tiles: For each tile its tokens, their weights, and the gradient of their projections.
        """
        own = _wide_zeros(hidden)
        for tokens, weight, slope in tiles:
            narrow = slope.to(weight.dtype)
            if self.hidden is not None:
                _add_product(own, narrow, weight)
            if self._weight is not None:
                _add_product(self._weight[tokens], narrow.T, hidden)
            if self._bias is not None:
                self._bias[tokens] += slope.sum(0)
        if self.hidden is not None:
            self.hidden[part] = own.to(self.hidden.dtype)

    def of_weight(self) -> Tensor | None:
        """Return the gradient of the weight in its dtype."""
        return None if self._weight is None else self._weight.to(self._dtypes[0])

    def of_bias(self) -> Tensor | None:
        """Return the gradient of the bias in its dtype."""
        return None if self._bias is None else self._bias.to(self._dtypes[1])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product, in the dtype of its factors, to a sum that may be wider."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _wide_zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
