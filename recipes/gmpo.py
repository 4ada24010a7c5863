"""GMPO (arXiv:2507.20673): the geometric mean of the ratios, each held within wide bounds."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import GMPO, Aggregator, PolicyObjective, SequenceMean


def gmpo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = GMPO(clip=0.4),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with the geometric mean of clipped ratios.

    Args:
        objective: The geometric mean of clipped ratios.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(gmpo, PromptData, max_steps=200, val_check_interval=50)
