"""GMPO (arXiv:2507.20673): the geometric mean of the ratios, each held within wide bounds."""

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import GMPO, PolicyObjective


def gmpo(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = GMPO(clip=0.4),
    advantage: AdvantageEstimator = GroupRelative(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with the geometric mean of clipped ratios.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: The geometric mean of clipped ratios.
        advantage: Scores against the mean and spread of their group.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(policy, objective=objective, advantage=advantage, **options)


if __name__ == "__main__":
    RecipeCLI(gmpo, PromptData, max_steps=200, val_check_interval=50)
