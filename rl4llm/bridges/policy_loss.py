"""The loss of a microbatch from our parts, for trainers of other libraries that ask for one number."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.borders import checked_loss, checked_penalty
from rl4llm.bridges.columns import batch_of
from rl4llm.checks import UsageError
from rl4llm.objectives.aggregate import SequenceMean
from rl4llm.objectives.base import Aggregator, Mask, PolicyObjective
from rl4llm.objectives.ppo_clip import PPOClip
from rl4llm.parts import Part
from rl4llm.regularizers.base import Regularizer


@dataclass(frozen=True)
class PolicyLoss:
    """An objective, regularizers beside it, and the aggregator that makes one number of each.

    Args:
        objective: What the policy minimizes.
        aggregator: How the losses of tokens become one number.
        regularizers: Penalties, each already weighted by its coefficient.
    """

    objective: PolicyObjective = field(default_factory=PPOClip)
    aggregator: Aggregator = field(default_factory=SequenceMean)
    regularizers: tuple[Regularizer, ...] = ()

    def __post_init__(self) -> None:
        for regularizer in self.regularizers:
            if regularizer.where is not None:
                raise UsageError(
                    f"PolicyLoss: {type(regularizer).__name__} has a gate in `where`, whose percentiles are those of a "
                    "whole rollout batch; a trainer of another library passes microbatches. Set where=None."
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The objective and the regularizers."""
        return (self.objective, *self.regularizers)

    def masks(self, mask: Bool[Tensor, "batch time"]) -> list[Mask]:
        """Return what each term counts: tokens or, for an objective with one loss per response, responses."""
        first = mask.any(-1) if self.objective.level == "response" else mask
        return [first, *[mask] * len(self.regularizers)]

    @property
    def aggregators(self) -> list[Aggregator]:
        """The aggregator of each term: its own or, where it has none, that of the objective."""
        return [self.aggregator, *(part.aggregator or self.aggregator for part in self.regularizers)]

    def counts(self, mask: Bool[Tensor, "batch time"]) -> Float[Tensor, " term"]:
        """Return what each term of a batch is divided by; the sum over all microbatches of a step is its normalizer.

        Example:
            >>> PolicyLoss().counts(torch.tensor([[True, True], [False, False]]))
            tensor([1.])
        """
        pairs = zip(self.aggregators, self.masks(mask), strict=True)
        return torch.stack([aggregator.count(counted).float() for aggregator, counted in pairs])

    def __call__(
        self, policy: PolicyOutput, batch: RolloutBatch, normalizers: Sequence[Tensor | float] | Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss of a microbatch.

        Args:
            policy: Log-probs of the present policy and what else the parts ask for.
            batch: The microbatch.
            normalizers: What each term is divided by over the whole optimizer step; None: this microbatch alone.

        Returns:
            The sum of the terms, to be minimized.

        Raises:
            UsageError: If a part lacks a column or returns something else than losses.

        Example:
            >>> from rl4llm.bridges.columns import batch_of
            >>> batch = batch_of("f", torch.ones(1, 2, dtype=torch.bool), {"advantages": torch.ones(1, 2),
            ...     "old_log_probs": torch.zeros(1, 2)})
            >>> PolicyLoss()(PolicyOutput(torch.zeros(1, 2)), batch)
            tensor(-1.)
        """
        losses = [checked_loss(self.objective, policy, batch)]
        losses += [checked_penalty(part, policy, batch) for part in self.regularizers]
        divisors = [None] * len(losses) if normalizers is None else list(normalizers)
        terms = zip(losses, self.masks(batch.response_mask), self.aggregators, divisors, strict=True)
        return torch.stack([mean(loss, mask, normalizer=divisor) for loss, mask, mean, divisor in terms]).sum()

    def check(self, by: str, reads: Collection[str], asks: Collection[str]) -> None:
        """Raise unless a trainer passes to microbatches what the parts read and ask.

        Args:
            by: The trainer, for the message.
            reads: Columns that it passes.
            asks: Outputs of the policy that it passes.

        Raises:
            UsageError: Naming the part and what is missing.
        """
        for part in self.parts:
            check_reads(by, part, reads)
            missing = [name for name in part.asks if name not in asks]
            if missing:
                raise UsageError(
                    f"{by}: {type(part).__name__} needs policy.{missing[0]}, which this trainer does not pass to its "
                    "loss; choose a part that needs the log-probs alone, or train with a recipe of rl4llm."
                )
        if self.objective.whole_groups:
            raise UsageError(
                f"{by}: {type(self.objective).__name__} compares the responses of a group, and this trainer cuts "
                "groups into microbatches; choose another objective, or train with a recipe of rl4llm."
            )

    @property
    def reads_rollout_log_probs(self) -> bool:
        """Whether the loss depends on the log-probs that the sampling engine reported."""
        probe = torch.zeros(1, 1)
        columns = {"advantages": probe + 1, "old_log_probs": probe - 1, "ref_log_probs": probe - 1}
        policy = PolicyOutput(probe - 1, entropies=probe + 1)
        return not bool(self(policy, batch_of("PolicyLoss", probe == 0, columns)).isfinite())


def check_reads(by: str, part: Part, reads: Collection[str]) -> None:
    """Raise unless a trainer passes every column that a part reads.

    Args:
        by: The trainer, for the message.
        part: The part.
        reads: Columns that the trainer passes.

    Raises:
        UsageError: Naming the part and the column.
    """
    missing = [name for name in part.reads if name not in reads]
    if missing:
        passed = ", ".join(sorted(reads)) or "scores, masks and groups alone"
        raise UsageError(
            f"{by}: {type(part).__name__} reads {missing[0]}, which this trainer does not pass (it passes {passed}); "
            "choose another part, or train with a recipe of rl4llm."
        )
