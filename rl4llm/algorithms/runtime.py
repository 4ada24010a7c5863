"""`Runtime`: all that the steps of the loop may know of the Trainer, as one frozen value."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl4llm.checks import UsageError
from rl4llm.randomness import Key, generator, seed_of

T = TypeVar("T")
_CPU = torch.device("cpu")


class RankError(UsageError):
    """Another rank failed; the message says which and why. The traceback is on that rank, so it speaks first."""

    together = True  # all ranks end by themselves
    patience = 3.0  # seconds


def _alone(own: T) -> list[T]:
    return [own]


def _backward(loss: Tensor) -> None:
    loss.backward()


def _step(optimizer: Optimizer, counted: bool) -> None:
    optimizer.step()


@dataclass(frozen=True)
class Runtime:
    """Ranks, random numbers, backward passes and optimizer steps, without the Trainer that provides them.

    The default is one process without a Trainer, so that every step of the loop runs and is tested alone.

    Args:
        seed: Seed of the run, the same on every rank.
        step: Number of the rollout batch, which names its random numbers.
        rank: Number of this process.
        world_size: Number of processes.
        device: Where this process computes.
        lockstep: Whether all ranks must run the same forward and backward passes, because weights are sharded.
        gather: `gather(x)` returns the `x` of every rank, in the order of ranks, on every rank.
        backward: Backpropagates a loss whose gradients are to be summed over ranks.
        add_gradients: Sums the gradients of a module over the ranks, unless backward has done so.
        step_optimizer: Steps an optimizer; the flag says whether the Trainer counts it.
        whole_weights: Context in which a module's weights are whole on every rank, for passes that ranks run alone.
    """

    seed: int = 0
    step: int = 0
    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU
    lockstep: bool = False
    gather: Callable[[Any], list[Any]] = _alone
    backward: Callable[[Tensor], None] = _backward
    add_gradients: Callable[[nn.Module], None] = lambda module: None
    step_optimizer: Callable[[Any, bool], None] = _step
    whole_weights: Callable[[nn.Module], AbstractContextManager[None]] = lambda module: nullcontext()

    def generator(self, *purpose: Key) -> torch.Generator:
        """Return the generator of this purpose in this step, the same on every rank and device."""
        return generator(*purpose, self.seed, self.step)

    def seeds(self, purpose: Key, places: Iterator[int] | range) -> Tensor:
        """Return one seed per place, for example per prompt of the global batch."""
        return torch.tensor([seed_of(purpose, self.seed, self.step, place) for place in places], dtype=torch.long)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over all ranks, added in the order of ranks."""
        if self.world_size == 1:
            return x
        return torch.stack([part.to(x.device) for part in self.gather(x.detach().cpu())]).sum(0)

    def share(self, count: int) -> range:
        """Return this rank's contiguous share of `count` things; shares differ by at most one and may be empty."""
        return share(count, self.rank, self.world_size)

    def together(self, action: Callable[[], T]) -> list[T]:
        """Run an action on every rank and return all results, in the order of ranks.

        If it fails on some rank it fails on all of them, so that none waits for a rank that has left.

        Raises:
            UsageError: With the same message on every rank, if the action raises one anywhere.
            RankError: On the ranks where the action succeeded, if it raises anything else elsewhere.
        """
        if self.world_size == 1:
            return [action()]
        error: Exception | None = None
        try:
            outcome: tuple[bool, Any, str] = (True, action(), "")
        except UsageError as raised:
            error, outcome = raised, (False, UsageError, str(raised))
        except Exception as raised:
            what = f"rank {self.rank} failed: {type(raised).__name__}: {raised}"
            error, outcome = raised, (False, RankError, what)
        outcomes = self.gather(outcome)
        failed = [(kind, message) for good, kind, message in outcomes if not good]
        if error is not None and not isinstance(error, UsageError):
            raise error
        if failed:
            kind, message = failed[0]
            raise kind(message)
        return [result for _, result, _ in outcomes]


def share(count: int, rank: int, world_size: int) -> range:
    """Return a rank's contiguous share of `count` things.

    Example:
        >>> tuple(tuple(share(5, rank, 3)) for rank in range(3))
        ((0, 1), (2, 3), (4,))
    """
    small, larger = divmod(count, world_size)
    start = rank * small + min(rank, larger)
    return range(start, start + small + (rank < larger))
