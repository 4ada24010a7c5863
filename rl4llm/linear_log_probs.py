"""Log-probs, entropies and log-normalizers of tokens from hidden states, without full logits in memory."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_device, check_given, check_interval, check_ndim
from rl4llm.linear_tiles import HeadScale, LinearStatistics, product_dtype
from rl4llm.log_probs import TokenLogProbs, check_ids, check_listed
from rl4llm.masked import at_least_float32


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
    one tile are in memory at a time: those of some positions for some tokens of the vocabulary. Tiles are joined by

        L = log Σₖ exp Lₖ      H = Σₖ wₖ (Hₖ − log wₖ)      wₖ = exp(Lₖ − L)

    where Lₖ is the log-normalizer of the tokens of tile k and Hₖ the entropy among them. The backward pass recomputes
    each tile and skips positions whose results receive no gradient. Logits that fit into 128 MiB of float32 are kept as
    one tile and not recomputed. The matrix product uses the dtype of autocast if it is on, else the wider of the two
    inputs; everything after it is in float32 (float64 for float64), and the gradients are accumulated in float32.

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
        chunk_size: Positions of a tile; None for as many as make 4 million logits with at most 4,096 tokens. If it is
            at least the number of positions, all logits are kept.

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
    check_at_least("linear_log_probs", 1, chunk_size=chunk_size)
    flat, options = hidden.reshape(-1, hidden.shape[-1]), (last, entropy, chunk_size)
    results = LinearStatistics.apply(flat, weight, bias, ids.reshape(-1).long(), *options)
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
    dtype = product_dtype(hidden, weight)
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
