"""MaxRL (arXiv:2602.02710): advantages over the success rate, so rare successes weigh most."""

from rl4llm.advantages import AdvantageEstimator, MaxRL
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import PolicyObjective, PPOClip


def max_rl(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = MaxRL(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    **options: object,
) -> PolicyGradient:
    """Train a policy towards the likelihood of success.

    Args:
        advantage: Score less the group's mean, over that mean.
        objective: PPO's clip with more room above than below.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(max_rl, PromptData, max_steps=200, val_check_interval=50)
