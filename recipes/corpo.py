"""CoRPO (arXiv:2511.04439): the group's mean is the baseline, but never less than what counts as correct."""

from rl4llm.advantages import AdvantageEstimator, CorrectnessRelative
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, PPOClip


def corpo(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    advantage: AdvantageEstimator = CorrectnessRelative(min_correct=0.5),  # between the task's scores 0 and 1
    **options: object,
) -> PolicyGradient:
    """Train a policy so that no failure is ever reinforced.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From advantages to the policy's loss.
        advantage: From the scores of a group to advantages; `advantage/floor_share` logs how often the floor acts.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(policy, objective=objective, advantage=advantage, **options)


if __name__ == "__main__":
    RecipeCLI(corpo, PromptData, max_steps=120, val_check_interval=40)
