"""`Answering`: a policy with the engine that draws its responses and the scorer that scores them."""

from dataclasses import dataclass

from rl4llm.models import Policy
from rl4llm.rewards import Scorer
from rl4llm.rollouts import Engine, Sampling


@dataclass(frozen=True)
class Answering:
    """A policy, its engine, its scorer and how responses are sampled.

    Args:
        policy: The policy.
        engine: Draws its responses, with its present weights.
        scorer: Runs the reward; None runs it in this process.
        sampling: How tokens are drawn.
    """

    policy: Policy
    engine: Engine
    scorer: Scorer | None
    sampling: Sampling

    def sync(self, version: int) -> None:
        """Give the engine the policy's weights, adapters merged; they must be whole on this rank."""
        self.engine.sync(self.policy.weights(), version)
