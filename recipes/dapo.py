"""DAPO (arXiv:2503.14476): clip-higher, mean over tokens, dynamic sampling, a charge on overlong responses."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.rewards import OverlongPenalty, RewardShaping
from rl4llm.rollouts import DynamicSampling


def dapo(
    policy: str | Pretrained = "rl4llm/digits",
    dynamic_sampling: DynamicSampling | None = DynamicSampling(max_draws=10),
    length_penalty: RewardShaping | None = OverlongPenalty(max_tokens=16, cache_tokens=4),
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy on groups that have something to compare.

    Args:
        length_penalty: Charge on the last tokens before the limit.
        objective: PPO's clip with more room above than below.
    """
    return compose(
        policy,
        dynamic_sampling=dynamic_sampling,
        length_penalty=length_penalty,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(dapo, PromptData, max_steps=100, val_check_interval=50)
