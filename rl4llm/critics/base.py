"""The family of value sources: where V(sₜ) comes from, and how it learns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rl4llm.batch import RolloutBatch

TokenFunction = Callable[[RolloutBatch], Tensor]


@dataclass(frozen=True)
class ValueContext:
    """What the loop lends to a value source, so that no value source knows the loop.

    Args:
        map: `map(f, batch)` evaluates f without grad on microbatches of the batch and gives its result for the
            whole batch (the batch and time axes are f's last two).
        minimize: `minimize(name, batch, f)` steps the optimizer of the learner `name` on the per-token losses that
            f gives, over the epochs, minibatches and microbatches of its schedule.
    """

    map: Callable[[TokenFunction, RolloutBatch], Tensor]
    minimize: Callable[[str, RolloutBatch, TokenFunction], None]


class ValueSource(nn.Module, ABC):
    """V(sₜ) for the advantage estimator: learned critics, a tracker, continuations, a table."""

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        """The modules trained by gradient, by name: one optimizer each. None by default."""
        return {}

    @abstractmethod
    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """The batch with `values` (and `critic_values`, where there are several estimates)."""

    @abstractmethod
    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Learn from the batch, which holds `returns` by now."""


class ValueSpec(ABC):
    """A frozen choice of value source: cheap in a signature, heavy when built."""

    @abstractmethod
    def build(self, policy: str) -> ValueSource:
        """The value source; `policy` is the policy's model name, for sources that take the same one."""

    @abstractmethod
    def check(self, policy: str, responses_per_prompt: int) -> None:
        """Raise, before anything is loaded, if it cannot work beside this policy with so many responses a prompt."""
