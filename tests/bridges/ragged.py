"""Random ragged batches in float64, and the gradients of two losses on them."""

from typing import NamedTuple

import torch


class Ragged(NamedTuple):
    """Columns of a batch, as every library has them under some name."""

    ids: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    old: torch.Tensor
    ref: torch.Tensor
    entropies: torch.Tensor
    per_response: torch.Tensor
    advantages: torch.Tensor
    rewards: torch.Tensor
    values: torch.Tensor
    groups: torch.Tensor


def ragged(seed, *, rows=8, time=9, size=4, holes=False):
    """Groups of `size` responses of 1 to `time` tokens; ratios well beyond every bound, and values in the padding."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(time) < torch.randint(1, time + 1, (rows, 1), generator=generator)
    if holes:
        mask = mask & ((torch.rand(rows, time, generator=generator) < 0.7) | (torch.arange(time) == 0))
    log_probs = -numbers(rows, time).abs() - 0.05
    last = mask.flip(-1).cumsum(-1).flip(-1).eq(1) & mask
    return Ragged(
        ids=torch.randint(0, 50, (rows, time), generator=generator),
        mask=mask,
        log_probs=log_probs.requires_grad_(),
        old=(log_probs.detach() + 0.5 * numbers(rows, time)).clamp(max=-0.01),
        ref=(log_probs.detach() + 0.5 * numbers(rows, time)).clamp(max=-0.01),
        entropies=numbers(rows, time).abs().requires_grad_(),
        per_response=numbers(rows),
        advantages=numbers(rows, time) * mask,
        rewards=torch.where(last, numbers(rows)[:, None], torch.zeros(())),
        values=numbers(rows, time) * mask,
        groups=torch.arange(rows) // size,
    )


def of_trl(batch, **changes):
    """A batch as TRL's trainer holds it."""
    columns = {
        "prompt_ids": batch.ids[:, :3],
        "prompt_mask": torch.ones_like(batch.ids[:, :3]),
        "completion_ids": batch.ids,
        "completion_mask": batch.mask.int(),
        "advantages": batch.per_response,
        "num_items_in_batch": batch.mask.sum(),
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
    }
    return {name: column for name, column in {**columns, **changes}.items() if column is not None}


def gradients(loss, batch):
    """Gradients of a loss with respect to the log-probs and the entropies; zeros where it depends on neither."""
    leaves = [batch.log_probs, batch.entropies]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if slope is None else slope for slope, leaf in zip(found, leaves, strict=True)]


def assert_same_update(theirs, ours, batch, tolerance=1e-12):
    """Gradients at trained tokens are equal; the value of a loss says nothing, so it is not compared."""
    expected, found = gradients(theirs, batch), gradients(ours, batch)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other * batch.mask, one * batch.mask, rtol=tolerance, atol=tolerance)
    assert found[0].isfinite().all()
    assert found[0].any()
