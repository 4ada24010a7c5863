"""TOPR (arXiv:2503.14286): good responses at full weight, bad ones only while they are still likely."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, ConstantBaseline
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import TOPR, Aggregator, PolicyObjective, SequenceSum


def topr(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = ConstantBaseline(baseline=0.5),  # scores of 0 and 1: ±½
    objective: PolicyObjective = TOPR(),
    aggregator: Aggregator = SequenceSum(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with tapered weights.

    Args:
        advantage: Scores less a constant: their sign says good or bad, whatever the group did.
        objective: Full weight for good responses, the ratio up to 1 for bad ones.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(topr, PromptData, max_steps=200, val_check_interval=50)
