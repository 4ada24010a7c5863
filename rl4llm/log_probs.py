"""Log-probs, entropies and log-normalizers of tokens: the only place that reads the vocabulary axis of the logits."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.checks import (
    UsageError,
    check_at_least,
    check_device,
    check_given,
    check_integers,
    check_interval,
    check_same_shape,
)
from rl4llm.logit_statistics import Incoming, chunk_statistics
from rl4llm.masked import at_least_float32
from rl4llm.roles import refuse


class TokenLogProbs(NamedTuple):
    """What [token_log_probs][] gives when more than the log-probs is asked for.

    Attributes:
        log_probs: log π(id).
        entropies: H(π) over the vocabulary; None unless asked.
        logsumexp: log Σ exp(logits / temperature); None unless asked.
    """

    log_probs: Float[Tensor, "*axes"]
    entropies: Float[Tensor, "*axes"] | None = None
    logsumexp: Float[Tensor, "*axes"] | None = None


@overload
def token_log_probs(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float = ...,
    entropy: Literal[False] = ...,
    logsumexp: Literal[False] = ...,
    chunk_size: int = ...,
) -> Tensor: ...
@overload
def token_log_probs(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float = ...,
    entropy: Literal[True],
    logsumexp: bool = ...,
    chunk_size: int = ...,
) -> TokenLogProbs: ...
@overload
def token_log_probs(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float = ...,
    entropy: bool = ...,
    logsumexp: Literal[True],
    chunk_size: int = ...,
) -> TokenLogProbs: ...
@overload
def token_log_probs(
    logits: Tensor,
    ids: Tensor,
    *,
    temperature: float = ...,
    entropy: bool,
    logsumexp: bool = ...,
    chunk_size: int = ...,
) -> Tensor | TokenLogProbs: ...
def token_log_probs(
    logits: Float[Tensor, "*axes vocab"],
    ids: Int[Tensor, "*axes"],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    logsumexp: bool = False,
    chunk_size: int = 1024,
) -> Float[Tensor, "*axes"] | TokenLogProbs:
    """Log-probs of the given tokens, and on request the entropy and the log-normalizer, in one pass over the logits.

        x = logits / temperature      L = log Σᵥ exp xᵥ      log π(id) = x_id − L      H = −Σᵥ πᵥ log πᵥ

    Everything is that of the tempered distribution, the one a sampler at this temperature draws from. Arithmetic is in
    float32 (float64 for float64 logits) on `chunk_size` positions at a time, in the backward pass as well: beside the
    logits themselves nothing of their size is kept, and the only thing of their size that is made is their gradient,
    in their dtype. A logit of −inf is a token that cannot occur: it adds nothing to H and gets no gradient. A position
    whose results get no gradient passes none on, whatever its logits (NaN included). Differentiable once.

    Args:
        logits: Unnormalized scores, the vocabulary last.
        ids: The token at each position; every one must be in the vocabulary, masked or not.
        temperature: What the logits are divided by.
        entropy: Whether to return the entropies.
        logsumexp: Whether to return the log-normalizers.
        chunk_size: Positions treated at once; bounds the temporary memory, does not change the result.

    Returns:
        The log-probs alone, or a [TokenLogProbs][] if more is asked; float32 (float64 for float64 logits).

    Raises:
        UsageError: If shapes differ, ids are not integers in the vocabulary, or temperature or chunk_size is not
            positive.

    Example:
        >>> token_log_probs(torch.tensor([[0.0, 0.0], [9.0, -torch.inf]]), torch.tensor([1, 0]))
        tensor([-0.6931,  0.0000])
        >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2]), entropy=True).entropies
        tensor([1.3863])
    """
    check_interval("token_log_probs", 0.0, ends="()", temperature=temperature)
    check_at_least("token_log_probs", 1, chunk_size=chunk_size)
    check_given("token_log_probs", logits=logits, ids=ids)
    check_device("token_log_probs", logits=logits, ids=ids)
    if logits.shape[:-1] != ids.shape:
        raise UsageError(
            f"token_log_probs: ids has shape {tuple(ids.shape)}, logits {tuple(logits.shape)}; "
            "pass one id per position."
        )
    check_ids("token_log_probs", ids, logits.shape[-1])
    results = _TokenStatistics.apply(logits, ids.long(), temperature, entropy, chunk_size)
    log_probs, normalizers = (x.reshape(ids.shape) for x in results[:2])
    if not (entropy or logsumexp):
        return log_probs
    entropies = results[2].reshape(ids.shape) if entropy else None
    return TokenLogProbs(log_probs, entropies, normalizers if logsumexp else None)


def listed_log_probs(
    logits: Float[Tensor, "*axes vocab"],
    ids: Int[Tensor, "*axes listed"],
    logsumexp: Float[Tensor, "*axes"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "*axes listed"]:
    """Log-probs of several tokens a position, given the log-normalizer that [token_log_probs][] gives; no gradient.

    Args:
        logits: Unnormalized scores, the vocabulary last.
        ids: Some tokens at each position.
        logsumexp: log Σ exp(logits / temperature).
        temperature: What the logits are divided by.

    Returns:
        log π of each listed token, in the dtype of `logsumexp`.

    Example:
        >>> listed_log_probs(torch.zeros(1, 4), torch.tensor([[0, 3]]), torch.tensor([4.0]).log())
        tensor([[-1.3863, -1.3863]])
    """
    check_interval("listed_log_probs", 0.0, ends="()", temperature=temperature)
    check_given("listed_log_probs", logits=logits, ids=ids, logsumexp=logsumexp)
    check_listed("listed_log_probs", ids, logits.shape[-1], logits=logits[..., 0], logsumexp=logsumexp)
    listed = at_least_float32(logits.detach().gather(-1, ids.long())) / temperature
    return listed - logsumexp.detach()[..., None]


def check_listed(by: str, ids: Tensor, vocab: int, **positions: Tensor) -> None:
    """Raise unless `ids` are lists of ids of the vocabulary, one at each position of the other tensors."""
    check_integers(by, ids=ids)
    check_same_shape(by, remedy="pass a list of ids per position", **positions, ids=ids[..., 0])
    rule, remedy = f"ids must be in [0, {vocab})", "list ids of the vocabulary"
    refuse(by, "ids", ids, None, rule, remedy, wrong=lambda x: (x < 0) | (x >= vocab))


def check_ids(by: str, ids: Tensor, vocab: int) -> None:
    """Raise unless ids are integers in a vocabulary of this size."""
    check_integers(by, ids=ids)
    outside = (ids < 0) | (ids >= vocab)
    if outside.any():
        raise UsageError(
            f"{by}: ids must be in [0, {vocab}), got {int(ids[outside][0])}; fill ignored positions with any id of the "
            "vocabulary and mask their results."
        )


def _chunks(logits: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Views of at most `size` positions each, and where they lie among all positions; never a copy of the whole."""
    pieces = [logits.reshape(-1, logits.shape[-1])] if logits.ndim < 3 or logits.is_contiguous() else _matrices(logits)
    start = 0
    for piece in pieces:
        for chunk in piece.split(size):
            yield slice(start, start + len(chunk)), chunk
            start += len(chunk)


def _matrices(logits: Tensor) -> list[Tensor]:
    """The positions × vocab views of a strided tensor, whose leading axes cannot be joined without a copy."""
    return [logits] if logits.ndim == 2 else [matrix for part in logits.unbind(0) for matrix in _matrices(part)]


def _scaled(chunk: Tensor, temperature: float) -> Tensor:
    x = at_least_float32(chunk)
    return x if temperature == 1.0 else x / temperature


class _TokenStatistics(torch.autograd.Function):
    """Forward and backward of [token_log_probs][] over flattened positions; the softmax is made again in backward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ids: Tensor, temperature: float, entropy: bool, chunk_size: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ids = ids.reshape(-1)
        log_probs = at_least_float32(logits.new_empty(ids.shape))
        normalizers = torch.empty_like(log_probs)
        entropies = torch.empty_like(log_probs) if entropy else None
        for at, chunk in _chunks(logits, chunk_size):
            found = chunk_statistics(_scaled(chunk, temperature), ids[at], entropy=entropy)
            log_probs[at], normalizers[at] = found.logits - found.logsumexp, found.logsumexp
            if entropies is not None and found.entropies is not None:
                entropies[at] = found.entropies
        ctx.save_for_backward(logits, ids, normalizers, entropies)
        ctx.set_materialize_grads(False)
        ctx.options = temperature, chunk_size
        return log_probs, normalizers, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, ids, normalizers, entropies = ctx.saved_tensors
        temperature, chunk_size = ctx.options
        incoming = Incoming(gradients, ids, normalizers, entropies)
        result = torch.empty(len(ids), logits.shape[-1], dtype=logits.dtype, device=logits.device)
        for at, chunk in _chunks(logits, chunk_size):
            slope = incoming.slope(_scaled(chunk, temperature), at).div_(temperature)
            result[at] = slope.masked_fill_(incoming.silent[at, None], 0.0)
        return result.reshape(logits.shape), None, None, None, None
