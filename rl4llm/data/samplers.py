"""The family of prompt samplers: which prompts come next."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.randomness import generator

# What each prompt of the data set is worth by now. It is called only by samplers that need it.
Weights = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Place:
    """A place in the endless stream of training prompts: what the order of the prompts is a function of.

    Args:
        seed: Seed of the order.
        epoch: Number of complete passes over the prompts before this place.
        step: Number of steps taken in this pass.
        kept: Indices of the prompts that take part in this pass; None: all of them, or not yet decided.
        extent: Number of prompts in the data set and prompts per step for which this place was reached.
    """

    seed: int
    epoch: int = 0
    step: int = 0
    kept: Int[Tensor, " kept"] | None = None
    extent: tuple[int, int] | None = None


class PromptSampler(ABC):
    """Which prompts come next, from the place in the stream and from how much each prompt is worth.

    A sampler keeps no state. Every draw is a function of its arguments, so that a resumed run continues with the next
    prompts and every process draws the same ones.

    Attributes:
        paper: arXiv id of its source.
    """

    paper: ClassVar[str] = ""

    @abstractmethod
    def keep(self, weights: Weights, size: int) -> Int[Tensor, " kept"] | None:
        """Return the indices of the prompts that take part in the coming epoch, or None for all of them.

        This is called once per epoch, and the result is saved with the place.
        """

    @abstractmethod
    def draw(self, weights: Weights, place: Place, count: int, size: int) -> Int[Tensor, " size"]:
        """Return the indices of the prompts of one step.

        Args:
            weights: What each prompt is worth when the step is drawn.
            place: The epoch and the step, with the prompts that `keep` returned.
            count: Number of prompts in the data set.
            size: Number of prompts to draw.
        """


@dataclass(frozen=True)
class Shuffled(PromptSampler):
    """Every prompt once per epoch, in random order. This is the default."""

    def keep(self, weights: Weights, size: int) -> None:
        """All prompts take part."""

    def draw(self, weights: Weights, place: Place, count: int, size: int) -> Int[Tensor, " size"]:
        """Return the step's part of the epoch's permutation; an incomplete last step is dropped."""
        return _shuffled(place, count, size)


@dataclass(frozen=True)
class Filtered(PromptSampler):
    """Every prompt once per epoch, in random order, except those that are worth nothing when the epoch begins.

    The value source says which prompts are worth nothing: see [OptimalValue][rl4llm.critics.OptimalValue].
    """

    def keep(self, weights: Weights, size: int) -> Int[Tensor, " kept"]:
        """The prompts with a positive weight."""
        kept = weights().nonzero()[:, 0]
        _check_enough(len(kept), size)
        return kept

    def draw(self, weights: Weights, place: Place, count: int, size: int) -> Int[Tensor, " size"]:
        """Return the step's part of the epoch's permutation; an incomplete last step is dropped."""
        return _shuffled(place, count, size)


@dataclass(frozen=True)
class Prioritized(PromptSampler):
    """Prompts drawn in proportion to what they are worth, none twice in one step.

        P(x) ∝ w(x)

    The value source says what w is, and it is read anew at each step: SPO's is √(v̂(1 − v̂)) + ε, which is largest for
    prompts that are solved half of the time ([BetaTracker][rl4llm.critics.BetaTracker]).

    References:
        Xu and Ding, 2025. arXiv:2509.13232, eq. 11.
    """

    paper: ClassVar[str] = "2509.13232"

    def keep(self, weights: Weights, size: int) -> None:
        """All prompts take part, so that an epoch has as many steps as one of all prompts."""

    def draw(self, weights: Weights, place: Place, count: int, size: int) -> Int[Tensor, " size"]:
        """Draw without replacement, with random numbers that belong to this step alone."""
        worth = weights()
        _check_enough(int((worth > 0).sum()), size)
        random = generator("prompts", place.seed, place.epoch, place.step)
        return torch.multinomial(worth, size, generator=random)


def _shuffled(place: Place, count: int, size: int) -> Int[Tensor, " size"]:
    length = count if place.kept is None else len(place.kept)
    part = _permutation(place.seed, place.epoch, length)[place.step * size : (place.step + 1) * size]
    return part if place.kept is None else place.kept[part]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=generator("prompts", seed, epoch))


def _check_enough(count: int, size: int) -> None:
    if count < size:
        raise UsageError(
            f"only {count} prompts are worth drawing, and prompts_per_step is {size}; lower --data.prompts_per_step, "
            "bring more prompts or filter less."
        )
