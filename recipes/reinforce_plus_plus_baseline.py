"""REINFORCE++ with a baseline (arXiv:2501.03262): scores less their group's mean, normalized over the whole batch."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean
from rl4llm.regularizers import KLPenalty, Regularizer


def reinforce_plus_plus_baseline(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(normalize_std=False),
    whitening: Whiten | None = Whiten(level="token"),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    kl: Regularizer | None = KLPenalty(coef=1e-3, estimator="k2"),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against the mean of each prompt, on the scale of the batch.

    Args:
        advantage: Scores less the mean of their group, not divided by its spread.
        whitening: Normalizes over all tokens of the batch.
        kl: Penalty on the divergence from the reference policy, in the loss; null: none, and no reference is loaded.
    """
    return compose(
        policy,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        regularizers={"kl": kl},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(reinforce_plus_plus_baseline, PromptData, max_steps=200, val_check_interval=50)
