"""Dr. GRPO (arXiv:2503.20783): GRPO without the two biases, of the spread and of the length."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, ConstantNorm, PolicyObjective, PPOClip


def dr_grpo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(normalize_std=False),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = ConstantNorm(max_tokens=16),  # the longest response allowed
    **options: object,
) -> PolicyGradient:
    """Train a policy against the mean of each prompt's scores."""
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(dr_grpo, PromptData, max_steps=200, val_check_interval=50)
