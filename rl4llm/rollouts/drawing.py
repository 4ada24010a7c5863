"""Drawing one token per row: uniforms that belong to the response, and the inverse of the distribution function."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.randomness import seed_of
from rl4llm.rollouts.sampling import Sampling

_UNIT = 2.0**50  # probabilities are rounded down to whole numbers of 1 / _UNIT, whose sums are exact in any order
_BLOCK = 2**18  # logits that a CPU keeps in its cache through all the operations on them
_LEAST = torch.finfo(torch.float32).min  # in place of −inf, which times no mass would not be a number


class Drawn(NamedTuple):
    """One token per row.

    Attributes:
        tokens: The token.
        log_probs: Its log-prob under the unfiltered distribution at the temperature.
        entropies: Entropy of that distribution.
        top_ids: Its likeliest tokens, as many as were asked for.
        top_log_probs: Their log-probs.
    """

    tokens: Int[Tensor, " batch"]
    log_probs: Float[Tensor, " batch"]
    entropies: Float[Tensor, " batch"]
    top_ids: Int[Tensor, "batch top"]
    top_log_probs: Float[Tensor, "batch top"]


def response_uniforms(
    seeds: Int[Tensor, " prefix"], limits: Int[Tensor, " prefix"], *, copies: int, first: int = 0
) -> Float[Tensor, "row step"]:
    """Return the uniform numbers of all tokens of all responses, float64 on the CPU.

    Copy c of a prefix has a generator of its own, seeded by `seed_of(seed, c)`, and its token t takes the t-th number
    of that generator. So a response has the same numbers whatever is drawn beside it: other prefixes, more copies, or a
    longer limit.

    Args:
        seeds: One seed per prefix.
        limits: Tokens that may be drawn after each prefix; numbers beyond them are 0 and never read.
        copies: Responses per prefix.
        first: Number of the first copy.

    Returns:
        Numbers in [0, 1), the copies of one prefix together.

    Example:
        >>> seeds, limits = torch.tensor([5, 6]), torch.tensor([2, 3])
        >>> together, alone = (response_uniforms(s, n, copies=1) for s, n in [(seeds, limits), (seeds[1:], limits[1:])])
        >>> torch.equal(together[1:], alone)
        True
    """
    bounds, own = limits.tolist(), torch.Generator()
    uniforms = torch.zeros(len(bounds) * copies, max(bounds, default=0), dtype=torch.float64)
    for index, (seed, limit) in enumerate(zip(seeds.tolist(), bounds, strict=True)):
        for copy in range(copies):
            own.manual_seed(seed_of(seed, first + copy))
            uniforms[index * copies + copy, :limit].uniform_(generator=own)
    return uniforms


def inverse_cdf(log_probs: Float[Tensor, "batch vocab"], uniforms: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return the token at which the distribution function first exceeds a uniform number.

        token = min {k : p₀ + … + pₖ > u · Σ p}          0 ≤ u < 1

    The probabilities need not sum to 1: what a filter has dropped is renormalized by Σ p. They are rounded down to
    multiples of 2⁻⁵⁰ and summed as whole numbers, so the sums are exact and in order on every device, and a token of
    no mass is never drawn.

    Args:
        log_probs: Log-probs, −inf at tokens that must not be drawn.
        uniforms: One number per row.

    Returns:
        One token per row. A row with NaN gets some token of the vocabulary.

    Example:
        >>> log_probs = torch.tensor([[0.25, 0.0, 0.75]]).log().expand(4, -1)
        >>> inverse_cdf(log_probs, torch.tensor([0.0, 0.2499, 0.25, 0.9999], dtype=torch.float64))
        tensor([0, 0, 2, 2])
    """
    return _inverse(log_probs.exp(), uniforms)


def _inverse(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """[inverse_cdf][] of probabilities, which are overwritten."""
    cumulative = probabilities.mul_(_UNIT).long().cumsum_(-1)
    total = cumulative[:, -1]
    reached = torch.minimum((uniforms * total.to(uniforms.dtype)).long(), total - 1)  # in single precision u may be 1
    tokens = torch.searchsorted(cumulative, reached[:, None], right=True)[:, 0]
    return tokens.clamp(max=probabilities.shape[-1] - 1)


def draw(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    uniforms: Float[Tensor, " batch"],
    *,
    top: int = 0,
) -> Drawn:
    """Draw one token per row, and report what the unfiltered distribution at the temperature says of it.

    Args:
        logits: Of the next token.
        sampling: Temperature and filters.
        uniforms: One number in [0, 1) per row; not read at temperature 0.
        top: How many of the likeliest tokens to report.
    """
    rows = max(1, _BLOCK // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(logits))
    blocks = zip(logits.split(rows), uniforms.split(rows), strict=True)
    drawn = [_draw_block(block, sampling, numbers, top) for block, numbers in blocks]
    return drawn[0] if len(drawn) == 1 else Drawn(*(torch.cat(column) for column in zip(*drawn, strict=True)))


def _draw_block(logits: Tensor, sampling: Sampling, uniforms: Tensor, top: int) -> Drawn:
    log_probs = sampling.tempered(logits)
    probabilities = log_probs.exp()
    entropy = -(probabilities * log_probs.clamp(min=_LEAST)).sum(-1)
    likeliest = log_probs.topk(min(top, log_probs.shape[-1]), dim=-1)
    if sampling.greedy:
        tokens = log_probs.argmax(-1)
    else:
        kept = sampling.filter(log_probs)
        tokens = _inverse(probabilities if kept is log_probs else kept.exp(), uniforms)
    return Drawn(tokens, log_probs.gather(-1, tokens[:, None])[:, 0], entropy, likeliest.indices, likeliest.values)
