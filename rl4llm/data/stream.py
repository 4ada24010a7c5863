"""The loaders: an endless stream of training prompts with a place in it, and held-out prompts in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from rl4llm.checks import UsageError
from rl4llm.data.samplers import Place, PromptSampler
from rl4llm.data.task import Example, PromptBatch, Task

Weigh = Callable[[Int[Tensor, " prompt"]], Float[Tensor, " prompt"] | None]


class Progress:
    """How far the stream of training prompts has been read.

    Args:
        upcoming: The place of the next step.

    Attributes:
        latest: The place of the step that was handed out last.
    """

    def __init__(self, upcoming: Place) -> None:
        self.upcoming = self.latest = upcoming

    def state_dict(self, *, repeat_latest: bool = False) -> dict[str, Any]:
        """Return the place as plain values and tensors.

        Args:
            repeat_latest: Whether the step handed out last must be handed out again after a resume.
        """
        return dict(vars(self.latest if repeat_latest else self.upcoming))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved place."""
        extent = state["extent"]
        self.upcoming = self.latest = Place(**{**state, "extent": None if extent is None else tuple(extent)})


class PromptStream:
    """Training prompts, step by step, from wherever `progress` stands.

    One iteration yields as many steps as the data set has. It goes on where the one before it ended, also when that one
    was left early, so the order of the prompts does not depend on how a trainer cuts the stream into epochs. Every
    process yields the whole batch of the step. Nothing is prefetched: a step is drawn when it is asked for.

    Args:
        dataset: The prompts.
        task: The task that they belong to.
        size: Number of prompts per step.
        sampler: Which prompts come next.
        progress: The place in the stream, shared with the data module that saves it.
        weigh: Returns what the prompts with the given uids are worth, or None where nothing can say.
    """

    def __init__(
        self,
        dataset: Sequence[Example],
        task: Task,
        size: int,
        sampler: PromptSampler,
        progress: Progress,
        weigh: Weigh,
    ) -> None:
        self.dataset, self.task, self.size = dataset, task, size
        self.choice, self.progress, self.weigh = (
            sampler,
            progress,
            weigh,
        )  # Lightning handles a `sampler` in its own way
        self._uids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset) // self.size

    def __iter__(self) -> Iterator[PromptBatch]:
        for _ in range(len(self)):
            yield self.collate_fn([self.dataset[index] for index in self._advance()])

    def collate_fn(self, examples: Sequence[Example]) -> PromptBatch:
        """Return a batch of the given examples."""
        return PromptBatch(examples, self.task)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the data module saves the place. Lightning asks only whether a loader can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing: the data module loads the place."""

    def _advance(self) -> list[int]:
        place, count = self._checked(self.progress.upcoming), len(self.dataset)
        if place.kept is None:
            place = replace(place, kept=self.choice.keep(self._weights, self.size))
        drawn = self.choice.draw(self._weights, place, count, self.size).tolist()
        steps = (count if place.kept is None else len(place.kept)) // self.size
        last = place.step + 1 >= steps
        following = Place(place.seed, place.epoch + 1) if last else replace(place, step=place.step + 1)
        self.progress.latest = place
        self.progress.upcoming = replace(following, extent=place.extent)
        return drawn

    def _checked(self, place: Place) -> Place:
        """A place reached with other prompts means nothing here, unless an epoch begins there."""
        extent = (len(self.dataset), self.size)
        if place.extent not in (None, extent) and (place.step or place.kept is not None):
            rank_zero_warn(
                f"PromptData: the checkpoint was saved at step {place.step} of epoch {place.epoch} with (prompts, "
                f"prompts_per_step) = {place.extent}, which are now {extent}; a new epoch of prompts begins."
            )
            place = Place(place.seed, place.epoch + 1)
        return replace(place, extent=extent)

    def _weights(self) -> Tensor:
        if self._uids is None:
            self._uids = torch.tensor([self.dataset[index].uid for index in range(len(self.dataset))])
        weights, name = self.weigh(self._uids), type(self.choice).__name__
        if weights is None:
            raise UsageError(
                f"sampler={name} draws prompts by what they are worth, and no value source says so; "
                "set --model.critics=BetaTracker or OptimalValue, or --data.sampler=null."
            )
        weights = weights.detach().double().cpu()
        fault = None
        if weights.shape != self._uids.shape:
            fault = f"have shape {tuple(weights.shape)}"
        elif not bool((weights.isfinite() & (weights >= 0)).all()):
            fault = f"range from {weights.min():.3g} to {weights.max():.3g}"
        if fault:
            raise UsageError(
                f"sampler={name}: the value source's priorities {fault}; return one finite weight of at least 0 for "
                f"each of the {len(self._uids)} prompts."
            )
        return weights


class HeldOutPrompts:
    """Held-out prompts in their order, all of them; every process yields the whole batch of the step.

    Args:
        dataset: The prompts.
        task: The task that they belong to.
        size: Number of prompts per step; the last step may have fewer.
    """

    def __init__(self, dataset: Sequence[Example], task: Task, size: int) -> None:
        self.dataset, self.task, self.size = dataset, task, size

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.size)

    def __iter__(self) -> Iterator[PromptBatch]:
        for start in range(0, len(self.dataset), self.size):
            rows = range(start, min(start + self.size, len(self.dataset)))
            yield PromptBatch([self.dataset[index] for index in rows], self.task)
