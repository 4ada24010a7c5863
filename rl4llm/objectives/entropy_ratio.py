"""ERC: tokens whose entropy has moved too far keep their loss and lose their gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError, check_interval, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.objectives.base import PolicyObjective
from rl4llm.parts import Composite

_SMALLEST_ENTROPY = 1e-8


def entropy_ratio_mask(
    entropies: Float[Tensor, "batch time"],
    old_entropies: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 0.05,
    clip_high: float = 0.05,
) -> Bool[Tensor, "batch time"]:
    """Return True where the entropy of the policy is still close to its value at the rollout.

        ρₜ = (H(π_θ(·|sₜ)) + 10⁻⁸) / (H(π_old(·|sₜ)) + 10⁻⁸)        1 − clip_low < ρₜ < 1 + clip_high

    The ratio of the sampled token does not show how the rest of the distribution has moved; the entropy does. The mask
    has no gradient.

    Args:
        entropies: H(π_θ(·|sₜ)), t in [0, T), at least 0.
        old_entropies: H(π_old(·|sₜ)), at rollout time.
        response_mask: True at trained tokens; entropies are read only there.
        clip_low: Width below 1, in (0, 1]; 1 sets no lower bound.
        clip_high: Width above 1, above 0.

    Returns:
        A subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a width is outside its range.

    Example:
        >>> old, mask = torch.ones(1, 4), torch.tensor([[True, True, True, False]])
        >>> entropy_ratio_mask(torch.tensor([[1.0, 1.04, 0.9, 1.0]]), old, mask)
        tensor([[ True,  True, False, False]])

    References:
        ERC, 2025. arXiv:2512.05591 (as in the authors' code).
    """
    check_entropy_ratio("entropy_ratio_mask", clip_low, clip_high)
    check_token_tensors("entropy_ratio_mask", response_mask, entropies=entropies, old_entropies=old_entropies)
    new, old = (
        keep(at_least_float32(x.detach()), response_mask) + _SMALLEST_ENTROPY for x in (entropies, old_entropies)
    )
    ratios = new / old
    return response_mask & (ratios > 1.0 - clip_low) & (ratios < 1.0 + clip_high)


def check_entropy_ratio(by: str, clip_low: float, clip_high: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, 1.0, "(]", clip_low=clip_low)
    check_interval(by, 0.0, ends="(]", clip_high=clip_high)


@dataclass(frozen=True)
class EntropyRatioClip(Composite, PolicyObjective):  # type: ignore[override]
    """Objective of ERC: a token objective without gradient where the entropy moved too far. See [entropy_ratio_mask][].

    Args:
        base: The objective, with one loss per token.
        clip_low: Width below 1, in (0, 1]; 1 sets no lower bound.
        clip_high: Width above 1, above 0.
    """

    base: PolicyObjective
    clip_low: float = 0.05
    clip_high: float = 0.05
    own_reads: ClassVar[tuple[str, ...]] = ("entropies",)
    own_asks: ClassVar[tuple[str, ...]] = ("entropies",)
    paper: ClassVar[str] = "2512.05591"

    def __post_init__(self) -> None:
        check_entropy_ratio("EntropyRatioClip", self.clip_low, self.clip_high)
        if self.base.level != "token":
            raise UsageError(
                f"EntropyRatioClip: base must have one loss per token, {type(self.base).__name__} has one per "
                "response; wrap a token-level objective, for example PPOClip()."
            )

    @property
    def is_policy_gradient(self) -> bool:  # type: ignore[override]
        """Whether the base is: where no ratio has moved, no entropy has moved either."""
        return self.base.is_policy_gradient

    @property
    def whole_groups(self) -> bool:  # type: ignore[override]
        """Whether the base needs whole groups."""
        return self.base.whole_groups

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the loss of every response token."""
        (entropies,) = policy.require(*self.own_asks, by="EntropyRatioClip")
        (old_entropies,) = batch.require(*self.own_reads, by="EntropyRatioClip")
        kept = entropy_ratio_mask(
            entropies,
            old_entropies,
            batch.response_mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        losses = self.base(policy, batch)
        return torch.where(kept, losses, losses.detach())
