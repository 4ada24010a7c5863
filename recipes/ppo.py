"""Proximal Policy Optimization (arXiv:1707.06347) with one critic as large as the policy."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.regularizers import EntropyBonus, Regularizer


def ppo(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = SymmetricCritic(),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=0.95, lam_returns=1.0),
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    entropy: Regularizer | None = EntropyBonus(1e-3),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against its critic's value.

    Args:
        entropy: Entropy bonus on every token; null: none.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        regularizers={"entropy": entropy},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(ppo, PromptData, max_steps=80, val_check_interval=10)
