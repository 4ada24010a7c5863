"""The family of prompt samplers: which prompts come next."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.utils.data import Sampler

from rl4llm.checks import UsageError

Weigh = Callable[[Int[Tensor, " prompt"]], Float[Tensor, " prompt"] | None]


class PromptSampler(ABC):
    """Which prompts come next, from how much each is worth drawing.

    Attributes:
        paper: arXiv id of its source.
    """

    paper: ClassVar[str] = ""

    @abstractmethod
    def draw(self, weights: Callable[[], Tensor], size: int, generator: Generator) -> Iterator[list[int]]:
        """Indices of the prompts of each step of one epoch; `weights()` is what each prompt is worth by now."""


@dataclass(frozen=True)
class Filtered(PromptSampler):
    """Every prompt once an epoch, in random order, but those that are worth nothing.

    What is worth nothing is said by the value source: see [OptimalValue][rl4llm.critics.OptimalValue].
    """

    def draw(self, weights: Callable[[], Tensor], size: int, generator: Generator) -> Iterator[list[int]]:
        """Steps of `size` prompts; the rest of the epoch is dropped."""
        worth = weights().nonzero()[:, 0]
        _check_enough(len(worth), size)
        order = worth[torch.randperm(len(worth), generator=generator)]
        yield from (step.tolist() for step in order.split(size) if len(step) == size)


@dataclass(frozen=True)
class Prioritized(PromptSampler):
    """Prompts drawn in proportion to what they are worth, none twice in one step.

        P(x) ∝ w(x)

    w is said by the value source and read anew at each step: SPO's is √(v̂(1 − v̂)) + ε, largest for prompts that are
    solved half of the time ([BetaTracker][rl4llm.critics.BetaTracker]).

    References:
        Xu and Ding, 2025. arXiv:2509.13232, eq. 11.
    """

    paper: ClassVar[str] = "2509.13232"

    def draw(self, weights: Callable[[], Tensor], size: int, generator: Generator) -> Iterator[list[int]]:
        """As many steps as an epoch of all prompts has."""
        for _ in range(len(weights()) // size):
            worth = weights()
            _check_enough(int((worth > 0).sum()), size)
            yield torch.multinomial(worth.double(), size, generator=generator).tolist()


def _check_enough(count: int, size: int) -> None:
    if count < size:
        raise UsageError(
            f"only {count} prompts are worth drawing, and prompts_per_step is {size}; lower --data.prompts_per_step, "
            "bring more prompts or filter less."
        )


class Steps(Sampler[list[int]]):
    """A prompt sampler as the batch sampler of a loader.

    Args:
        sampler: The choice.
        uids: Of every prompt of the data set, in order.
        size: Prompts a step.
        weigh: What the prompts with these uids are worth; None where nothing can say.
        generator: Random numbers.
    """

    def __init__(
        self, sampler: PromptSampler, uids: Int[Tensor, " prompt"], size: int, weigh: Weigh, generator: Generator
    ) -> None:
        self.sampler, self.uids, self.size, self.weigh, self.generator = sampler, uids, size, weigh, generator

    def __len__(self) -> int:
        return len(self.uids) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        return self.sampler.draw(self._weights, self.size, self.generator)

    def _weights(self) -> Tensor:
        weights = self.weigh(self.uids)
        if weights is None:
            raise UsageError(
                f"sampler={type(self.sampler).__name__} draws prompts by what they are worth, and no value source "
                "says so; set --model.critics=BetaTracker or OptimalValue, or --data.sampler=null."
            )
        return weights
