"""Clip-Cov (arXiv:2505.22617): a few tokens that would cost the most entropy get no gradient."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.gates import CovarianceGate, Gate
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.rollouts import DynamicSampling


def clip_cov(
    policy: str | Pretrained = "rl4llm/digits",
    dynamic_sampling: DynamicSampling | None = DynamicSampling(max_draws=10),
    advantage: AdvantageEstimator = GroupRelative(),
    gate: Gate | None = CovarianceGate(fraction=0.0002, low=1.0, high=5.0, clip_low=1.0, clip_high=1.0),
    objective: PolicyObjective = PPOClip(clip_low=1.0, clip_high=1.0, dual_clip=10.0),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=8),
    **options: object,
) -> PolicyGradient:
    """Train a policy that keeps its entropy by leaving tokens out.

    Args:
        gate: Drops some of the tokens whose advantage and log-prob vary together, of those not yet clipped.
        objective: PPO's clip, wide enough to leave the work to the gate.
    """
    return compose(
        policy,
        dynamic_sampling=dynamic_sampling,
        advantage=advantage,
        gate=gate,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(clip_cov, PromptData, max_steps=200, val_check_interval=50)
