"""The family of rollout engines: `(policy, prompts) -> RolloutBatch`, not yet scored."""

from abc import ABC, abstractmethod

import torch

from rl4llm.batch import RolloutBatch
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts.sampling import Sampling


class RolloutEngine(ABC):
    """Draws responses. Token ids go in and come out as ids: nothing is decoded and encoded again."""

    @abstractmethod
    def __call__(
        self,
        policy: Policy,
        prompts: PromptBatch,
        *,
        responses_per_prompt: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> RolloutBatch:
        """Responses to every prompt, those of one prompt together; `scores` NaN, `rewards` 0 until scored."""
