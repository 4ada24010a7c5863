"""Entropy ratio clipping (arXiv:2512.05591): a token stops learning where its entropy has moved too far."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, EntropyRatioClip, PolicyObjective, PPOClip, TokenMean
from rl4llm.rollouts import DynamicSampling


def erc(
    policy: str | Pretrained = "rl4llm/digits",
    dynamic_sampling: DynamicSampling | None = DynamicSampling(max_draws=10),
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = EntropyRatioClip(PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0)),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy under a bound on the change of its entropy.

    Args:
        objective: The loss, and the bounds within which a token may still learn.
    """
    return compose(
        policy,
        dynamic_sampling=dynamic_sampling,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(erc, PromptData, max_steps=200, val_check_interval=50)
