"""TETHER (arXiv:2608.16739): a baseline between the group's mean and the critic, its place learned a batch late."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SigmoidHead, SymmetricCritic, Tether, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import DPPO, Aggregator, PolicyObjective, TokenMean


def tether(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = Tether(SymmetricCritic(head=SigmoidHead()), decay=0.95),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    objective: PolicyObjective = DPPO(divergence="tv", delta_low=0.2, delta_high=0.2),
    aggregator: Aggregator = TokenMean(),
    critic_warmup: int = 10,
    **options: object,
) -> PolicyGradient:
    """Train a policy against a blend that begins as RLOO and becomes PPO as far as the critic deserves it.

    Args:
        critics: The critic and the blend; its values are chances, learned by cross-entropy.
        objective: No gradient where the probability of a token has moved by more than 0.2 the way its advantage asks.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        critic_warmup=critic_warmup,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(tether, PromptData, max_steps=80, val_check_interval=20)
