"""Group Relative Policy Optimization (arXiv:2402.03300): each response against its siblings, without a critic."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean
from rl4llm.regularizers import Regularizer


def grpo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(normalize_std=True),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    kl: Regularizer | None = None,  # the paper's is KLPenalty(coef=0.04, estimator="k3")
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against the mean and spread of each prompt's scores.

    Args:
        kl: Penalty on the divergence from the reference policy; null: none, and no reference is loaded.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        regularizers={"kl": kl},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(grpo, PromptData, max_steps=80, val_check_interval=10)
