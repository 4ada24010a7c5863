"""Whitening: mean 0 and variance 1 over tokens, over responses, or over the responses of each group."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import (
    UsageError,
    check_choice,
    check_device,
    check_given,
    check_group_tensors,
    check_mask,
    check_same_shape,
    check_token_tensors,
)
from rl4llm.groups import centred_in_group, group_max, group_std
from rl4llm.masked import at_least_float32, keep, masked_mean, masked_var, result_dtype
from rl4llm.parts import Part

Level = Literal["token", "response", "group"]
_LEVELS = ("token", "response", "group")


def _from_tokens(x: Tensor, mask: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Return the deviation of each token from the mean of all tokens, and the standard deviation."""
    centred = x - masked_mean(x, mask)
    # As in `centred_in_group`: the first mean is rounded at the size of x, not of its spread.
    centred = centred - masked_mean(centred, mask)
    return centred, masked_var(centred, mask, unbiased=unbiased).sqrt()


def _from_responses(x: Tensor, mask: Tensor, group_ids: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """Return the deviation of each token from the mean of its group's response means, and their standard deviation."""
    if x.numel() == 0:
        return x, x
    # Averaging differences from one token keeps the mean of a constant response exact, whatever its length.
    anchor = x.gather(-1, mask.byte().argmax(-1, keepdim=True))
    means = anchor[:, 0] + masked_mean(x - anchor, mask, dim=-1)
    counted = mask.any(-1)
    centred = centred_in_group(means, group_ids, counted)
    std = group_std(centred, group_ids, counted, unbiased=unbiased)
    # Means of tokens that differ are rounded; where the means of a group differ by no more than that, they are equal.
    reach = keep((x - anchor).abs(), mask).amax(-1)
    rounding = 8 * torch.finfo(x.dtype).eps * keep(anchor[:, 0].abs() + reach, reach > 0)
    std = keep(std, std > group_max(rounding, group_ids, counted))
    return x - means[:, None] + centred[:, None], std[:, None]


@torch.no_grad()
def whiten(
    x: Num[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    level: Level = "token",
    group_ids: Int[Tensor, " batch"] | None = None,
    unbiased: bool = True,
    shift_mean: bool = True,
) -> Float[Tensor, "batch time"]:
    """Shift and scale to mean 0 and variance 1 at the declared level.

        yₜ = (xₜ − x̄) / s          (x̄ is added again when `shift_mean` is False)

    "token": x̄ and s are over all tokens where the mask is True, so long responses weigh more.
    "response": over one value per response, its mean over tokens; empty responses do not count.
    "group": the same among the responses of each group.
    Nothing is added to s: where all values are exactly equal, or there is only one, y is exactly 0 (x̄ when
    `shift_mean` is False).

    Args:
        x: Values, read only where `mask` is True.
        mask: Which tokens count.
        level: Where mean and variance become 0 and 1.
        group_ids: Which prompt draw a response answers; for level "group" only.
        unbiased: Whether s² divides by n − 1 (sample) or by n (population).
        shift_mean: Whether the result has mean 0; False only scales the spread.

    Returns:
        y, 0 where `mask` is False, without graph.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, the level is unknown, or "group" lacks `group_ids`.

    Example:
        >>> x, mask = torch.tensor([[1.0, 3.0], [5.0, 99.0]]), torch.tensor([[True, True], [True, False]])
        >>> whiten(x, mask)
        tensor([[-1., 0.],
                [ 1., 0.]])
        >>> whiten(x, mask, level="response", unbiased=False)
        tensor([[-1.6667, -0.3333],
                [ 1.0000, 0.0000]])

    References:
        Hu et al., 2025 (REINFORCE++: over the tokens of the batch). arXiv:2501.03262.
        Xu and Ding, 2025 (SPO: over the responses of the batch). arXiv:2509.13232, eq. 9.
    """
    check_mask("whiten", mask=mask)
    check_given("whiten", x=x)
    check_device("whiten", mask=mask, x=x)
    check_token_tensors("whiten", mask, x=x)
    check_choice("whiten", _LEVELS, level=level)
    if group_ids is not None:
        check_group_tensors("whiten", group_ids)
        check_same_shape("whiten", responses=mask.sum(-1), group_ids=group_ids, remedy="pass one id per response")
    kept = keep(at_least_float32(x), mask)
    if level == "token":
        deviation, std = _from_tokens(kept, mask, unbiased)
    else:
        ids = _groups(level, group_ids, mask)
        deviation, std = _from_responses(kept, mask, ids, unbiased)
    whitened = keep(deviation / std, mask & (std != 0))
    if not shift_mean:
        whitened = keep(whitened + (kept - deviation), mask)
    return whitened.to(result_dtype(x))


def _groups(level: str, group_ids: Tensor | None, mask: Tensor) -> Tensor:
    """Return the ids within which the statistics are taken."""
    if level == "response":
        return torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    if group_ids is None:
        raise UsageError("whiten: level 'group' needs group_ids, got None; pass one integer per response.")
    return group_ids


@dataclass(frozen=True)
class Whiten(Part):
    """Transform of advantages to mean 0 and variance 1. See [whiten][].

    A transform of advantages, not an estimator. Responses that could not be scored neither count nor get a value.

    Args:
        level: Over all tokens ("token"), over responses ("response"), or over those of each group ("group").
        unbiased: Whether the variance divides by n − 1 (sample) or by n (population).
    """

    level: Level = "token"
    unbiased: bool = True
    paper: ClassVar[str] = ""  # older than the methods that use it

    def __post_init__(self) -> None:
        check_choice("Whiten", _LEVELS, level=self.level)

    def __call__(self, advantages: Float[Tensor, "batch time"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Whiten the advantages over the trained tokens of scored responses."""
        mask, ids = batch.scored_mask, batch.group_ids
        return whiten(advantages, mask, level=self.level, group_ids=ids, unbiased=self.unbiased)
