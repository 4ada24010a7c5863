"""KL-Cov (arXiv:2505.22617): tokens that would cost the most entropy are held near the policy that acted."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.gates import HighCovariance
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, ImportanceWeighted, PolicyObjective, TokenMean
from rl4llm.regularizers import LogRatioPenalty, Regularizer
from rl4llm.rollouts import DynamicSampling


def kl_cov(
    policy: str | Pretrained = "rl4llm/digits",
    dynamic_sampling: DynamicSampling | None = DynamicSampling(max_draws=10),
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = ImportanceWeighted(),
    held: Regularizer = LogRatioPenalty(coef=1.0, where=HighCovariance(fraction=0.002)),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=8),
    **options: object,
) -> PolicyGradient:
    """Train a policy that keeps its entropy by holding tokens back.

    Args:
        held: Charge on the log-ratio, at the tokens of highest covariance.
    """
    return compose(
        policy,
        dynamic_sampling=dynamic_sampling,
        advantage=advantage,
        objective=objective,
        regularizers={"held": held},
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(kl_cov, PromptData, max_steps=200, val_check_interval=50)
