"""VAPO (arXiv:2504.05118): a pre-trained critic, λ that grows with the length, clip-higher, likelihood of successes."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, LengthAdaptiveGAE, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.gates import CorrectResponses
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.regularizers import Likelihood, Regularizer


def vapo(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = SymmetricCritic(),
    advantage: AdvantageEstimator = LengthAdaptiveGAE(alpha=0.4),  # responses are short; the paper's α is 0.05
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    likelihood: Regularizer | None = Likelihood(coef=0.1, where=CorrectResponses()),
    aggregator: Aggregator = TokenMean(),
    critic_warmup: int = 10,
    **options: object,
) -> PolicyGradient:
    """Train a policy against a critic that learned first.

    Args:
        objective: PPO's clip with more room above than below.
        likelihood: Imitation of correct responses.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        regularizers={"likelihood": likelihood},
        aggregator=aggregator,
        critic_warmup=critic_warmup,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(vapo, PromptData, max_steps=150, val_check_interval=50)
