"""GSPO (arXiv:2507.18071): one ratio a response, the geometric mean of its tokens', clipped as a whole."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import GSPO, Aggregator, PolicyObjective, SequenceMean


def gspo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = GSPO(clip_low=3e-4, clip_high=4e-4),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with a ratio of whole responses.

    Args:
        advantage: The same at every token of a response.
        objective: One clipped ratio a response.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(gspo, PromptData, max_steps=200, val_check_interval=50)
