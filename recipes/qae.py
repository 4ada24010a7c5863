"""QAE (arXiv:2509.22611): the baseline is a quantile, so most responses of a group are left alone."""

from rl4llm.advantages import AdvantageEstimator, QuantileRelative
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, PPOClip


def qae(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    advantage: AdvantageEstimator = QuantileRelative(quantile=0.4),
    **options: object,
) -> PolicyGradient:
    """Train a policy against a quantile of each prompt's scores.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: PPO's clip, higher above than below.
        advantage: Score less a quantile of its group.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(policy, objective=objective, advantage=advantage, **options)


if __name__ == "__main__":
    RecipeCLI(qae, PromptData, max_steps=200, val_check_interval=50)
