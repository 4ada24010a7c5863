"""The family of replays: `mix(batch)` adds earlier responses to fresh ones, `add(batch)` keeps fresh ones for later."""

from abc import ABC, abstractmethod

from torch import Generator, nn

from rl4llm.batch import RolloutBatch
from rl4llm.parts import Part


class Replay(nn.Module, ABC):
    """Earlier responses with the log-probs of the policy that made them. Its state is saved with the model."""

    @abstractmethod
    def mix(self, batch: RolloutBatch, generator: Generator) -> RolloutBatch:
        """Fresh rows, then replayed ones: `replayed` tells them apart, group ids of the two never coincide.

        Replayed rows keep `old_log_probs` and `rollout_log_probs` of the time they were drawn. The batch is scored
        and holds nothing yet that depends on the present policy or critics beyond what the engine gave.
        """

    @abstractmethod
    def add(self, batch: RolloutBatch) -> None:
        """Keep what may be replayed of the fresh rows of the batch, whose `old_log_probs` are final by now.

        Raises:
            UsageError: If the engine gave no log-probs (NaN) or the prompts have no identity where it is needed.
        """


class ReplaySpec(Part):
    """A frozen choice of replay: cheap in a signature, with state when built."""

    @abstractmethod
    def build(self) -> Replay:
        """An empty replay."""
