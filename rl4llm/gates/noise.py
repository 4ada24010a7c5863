"""Noise by content: random numbers for tokens that follow from the content of the rows, not from their position."""

from collections import Counter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_response_tensors, check_token_tensors
from rl4llm.randomness import generator, seed_of


def content_noise(
    prompt_uids: Int[Tensor, " batch"],
    response_ids: Int[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    seed: int = 0,
    by: str = "content_noise",
) -> Float[Tensor, "batch time"]:
    """Draw uniform numbers in [0, 1) for the trained tokens of a batch.

        uₜ ~ U[0, 1)

    No global random state is read or changed. Each row draws from its own generator, seeded by `seed`, by the trained
    tokens of the row and its prompt, and by those of the whole batch: the same batch gives the same numbers, in any
    order of the rows and on any device, and another batch gives others. Only identical responses to the same prompt are
    distinguished by their order.

    Args:
        prompt_uids: Identity of the prompts.
        response_ids: Tokens, t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        seed: Which of the many draws.
        by: Whom an error message names.

    Returns:
        The numbers in float64; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the seed is negative.

    Example:
        >>> noise = content_noise(torch.tensor([5]), torch.arange(3)[None], torch.tensor([[True, True, False]]))
        >>> noise.shape, noise[0, 2].item()
        (torch.Size([1, 3]), 0.0)

    References:
        Ours.
    """
    check_token_tensors(by, response_mask, response_ids=response_ids)
    check_at_least(by, 0, seed=seed)
    check_response_tensors(by, response_mask, prompt_uids=prompt_uids)
    mask = response_mask.cpu()
    rows = [
        seed_of(uid, *ids[trained].tolist())
        for uid, ids, trained in zip(prompt_uids.tolist(), response_ids.cpu(), mask, strict=True)
    ]
    batch, seen = seed_of(*sorted(rows)), Counter[int]()
    noise = torch.zeros(mask.shape, dtype=torch.float64)
    for row, trained in enumerate(mask):
        own = generator(seed, batch, rows[row], seen[rows[row]])
        seen[rows[row]] += 1
        noise[row, trained] = torch.rand(int(trained.sum()), generator=own, dtype=torch.float64)
    return noise.to(response_mask.device)


def tie_breaks(batch: RolloutBatch, exact: bool) -> Float[Tensor, "batch time"] | None:
    """Return the numbers that order tied tokens if a gate drops an exact number; None if it keeps ties whole."""
    return content_noise(batch.prompt_uids, batch.response_ids, batch.response_mask) if exact else None
