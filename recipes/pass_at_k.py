"""Pass@k training (arXiv:2508.10751): a group is rewarded for its best k, so exploration pays."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, PassAtKTraining
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def pass_at_k(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = PassAtKTraining(k=4),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy for the best of k responses.

    Args:
        advantage: What a response adds to the best of k.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(pass_at_k, PromptData, max_steps=200, val_check_interval=50)
