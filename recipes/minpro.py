"""MinPRO (arXiv:2601.22718): a token weighs its own ratio times the smallest ratio before it."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, MinPrefixRatio, PolicyObjective, TokenMean


def minpro(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = MinPrefixRatio(clip_low=1.0, clip_high=4.0),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=8),  # the prefix matters where the policy moves off its data
    **options: object,
) -> PolicyGradient:
    """Train a policy off its own data with the minimum prefix ratio."""
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(minpro, PromptData, max_steps=100, val_check_interval=25)
