"""CoRPO (arXiv:2511.04439): the group's mean is the baseline, but never less than what counts as correct."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, CorrectnessRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean


def corpo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = CorrectnessRelative(min_correct=0.5),  # between the task's scores 0 and 1
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy so that no failure is ever reinforced.

    Args:
        advantage: From the scores of a group to advantages; `advantage/floor_share` logs how often the floor acts.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(corpo, PromptData, max_steps=120, val_check_interval=40)
