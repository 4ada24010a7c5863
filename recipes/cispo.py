"""CISPO (arXiv:2506.13585): the ratio is clipped as a weight, so no token loses its gradient."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import CISPO, Aggregator, PolicyObjective, TokenMean


def cispo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = CISPO(clip_low=1.0, clip_high=4.0),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with clipped weights.

    Args:
        objective: Every token's policy gradient, weighted by its clipped ratio.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(cispo, PromptData, max_steps=200, val_check_interval=50)
