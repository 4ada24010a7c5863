"""SAPO (arXiv:2511.20347): a smooth gate around ratio 1 in place of a clip."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import SAPO, Aggregator, PolicyObjective, SequenceMean


def sapo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = SAPO(tau_positive=1.0, tau_negative=1.05),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with a soft trust region.

    Args:
        objective: A smooth gate around ratio 1, sharper for bad tokens.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(sapo, PromptData, max_steps=200, val_check_interval=50)
