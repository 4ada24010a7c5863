"""QAE (arXiv:2509.22611): the baseline is a quantile, so most responses of a group are left alone."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, QuantileRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def qae(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = QuantileRelative(quantile=0.4),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against a quantile of each prompt's scores.

    Args:
        advantage: Score less a quantile of its group.
        objective: PPO's clip, higher above than below.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(qae, PromptData, max_steps=200, val_check_interval=50)
