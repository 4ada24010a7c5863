"""A bound on the mean of a penalty instead of a weight: the weight is a dual variable that adapts."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError, check_interval, check_token_tensors
from rl4llm.gates.base import Gate
from rl4llm.masked import keep, masked_sum
from rl4llm.objectives.base import Aggregator
from rl4llm.parts import Composite
from rl4llm.regularizers.base import Regularizer


class DualVariable(torch.nn.Module):
    """The multiplier λ of a constraint mean(penalty) ≤ limit, by projected gradient ascent on the dual.

        λ ← clip(λ + lr · (mean − limit), 0, maximum)

    λ grows while the mean exceeds the limit and falls while it is below; at lr = 0 it stays, and the constraint is a
    penalty of fixed weight. The mean is the one that the policy's loss takes, so that both belong to one Lagrangian.
    One step belongs to one step of the policy, with λ held constant in between. Only the multiplier is saved. It stays
    in float64 whatever the module is cast to, because a step is small compared with it.

    Args:
        limit: Largest mean of the penalty that costs nothing.
        initial: λ at the start.
        lr: Step size.
        maximum: Largest λ.

    Example:
        >>> dual = DualVariable(limit=0.1, initial=0.5, lr=2.0, maximum=10.0)
        >>> dual.observe(torch.tensor([[0.3, 0.1, 9.0]]), torch.tensor([[True, True, False]]))
        >>> dual.step(lambda sums: sums)  # mean 0.2
        >>> round(dual.multiplier.item(), 6)
        0.7
    """

    multiplier: Float[Tensor, ""]

    def __init__(self, *, limit: float, initial: float, lr: float, maximum: float) -> None:
        super().__init__()
        self.limit, self.lr, self.maximum = limit, lr, maximum
        self.register_buffer("multiplier", torch.tensor(initial, dtype=torch.float64))
        self._sums = torch.zeros(2, dtype=torch.float64)  # aggregated penalty, and its divisor; never saved

    def observe(
        self,
        penalty: Float[Tensor, "batch time"],
        where: Bool[Tensor, "batch time"],
        counted: Bool[Tensor, "batch time"] | None = None,
        aggregator: Aggregator | None = None,
    ) -> None:
        """Add the penalties of a microbatch, averaged in the end as in the policy's loss.

        Args:
            penalty: Unweighted.
            where: The tokens where the constraint holds.
            counted: The tokens over which the mean is taken; None: those of `where`.
            aggregator: Which mean; None: over tokens.
        """
        counted = where if counted is None else counted
        check_token_tensors("DualVariable.observe", where, penalty=penalty, counted=counted)
        kept = keep(penalty.detach().double(), where)
        total = masked_sum(kept, counted) if aggregator is None else aggregator(kept, counted, normalizer=1)
        count = counted.sum() if aggregator is None else aggregator.count(counted)
        self._sums = self._sums.to(total.device) + torch.stack([total, count.to(total)])

    def forget(self) -> None:
        """Drop what was observed since the last step, which belongs to a step that is not made."""
        self._sums = torch.zeros_like(self._sums)

    @torch.no_grad()
    def step(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Move λ by what was observed since the last step, and forget it; without observations λ stays.

        Args:
            sum_over_ranks: Sums a tensor elementwise over all ranks; called once, on every rank.
        """
        total, count = sum_over_ranks(self._sums.to(self.multiplier.device))
        moved = self.multiplier + self.lr * (total / count.clamp(min=1) - self.limit)
        self.multiplier.copy_(torch.where(count > 0, moved.clamp(0.0, self.maximum), self.multiplier))
        self.forget()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DualVariable":
        exact = self.multiplier
        super()._apply(fn, recurse)
        if self.multiplier.dtype != exact.dtype:
            self.multiplier = exact.to(self.multiplier.device)
        return self


@dataclass(frozen=True)
class Constrained(Composite, Regularizer):
    """A penalty whose mean is held below a limit, by a weight that adapts. See [DualVariable][].

        max J   subject to   E[penalty] ≤ limit        →        loss = −J + λ penalty,   λ ≥ 0 adapted

    Calling it gives the penalty with weight 1; the training loop builds the dual variable, multiplies by it, passes it
    the penalties and steps it. The weight of the wrapped penalty is not used. A lower bound is a limit on a negative
    penalty: `Constrained(EntropyBonus(), limit=-0.3)` keeps the entropy above 0.3. The defaults are the library's
    choice, because those of the paper could not be read.

    Args:
        penalty: What is bounded; its `where` is kept, its `coef` is replaced.
        limit: Largest mean of the penalty over its tokens.
        initial: λ at the start, in [0, maximum].
        lr: Step size of λ, at least 0; 0 keeps λ where it starts.
        maximum: Largest λ, above 0.

    References:
        Luo et al., 2026. arXiv:2601.03320 (primal-dual scheme as in its abstract; the update is inferred).
    """

    penalty: Regularizer
    limit: float
    initial: float = 0.04
    lr: float = 0.05
    maximum: float = 10.0
    paper: ClassVar[str] = "2601.03320"

    def __post_init__(self) -> None:
        check_interval("Constrained", ends="()", limit=self.limit)
        check_interval("Constrained", 0.0, ends="()", maximum=self.maximum)
        check_interval("Constrained", 0.0, self.maximum, initial=self.initial)
        check_interval("Constrained", 0.0, ends="[)", lr=self.lr)
        penalty: Any = self.penalty
        if "coef" not in [field.name for field in fields(penalty)]:
            raise UsageError(
                f"Constrained: penalty must have a coef to replace, {type(penalty).__name__} has none; wrap, for "
                "example, RatioPenalty()."
            )

    @property
    def coef(self) -> float:  # type: ignore[override]
        """Return 1, because the dual variable is the weight."""
        return 1.0

    @property
    def where(self) -> Gate | None:  # type: ignore[override]
        """Return the gate of the penalty."""
        return self.penalty.where

    @property
    def aggregator(self) -> Aggregator | None:  # type: ignore[override]
        """Return the aggregator of the penalty, for the policy and the dual variable alike."""
        return self.penalty.aggregator

    def build(self) -> DualVariable:
        """Build the dual variable of this constraint."""
        return DualVariable(limit=self.limit, initial=self.initial, lr=self.lr, maximum=self.maximum)

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the penalty of every response token, with weight 1."""
        penalty: Any = self.penalty
        return replace(penalty, coef=1.0)(policy, batch)
