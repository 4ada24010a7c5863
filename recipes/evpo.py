"""EVPO (arXiv:2604.19485): the critic's values while they explain something, the group's mean while they do not."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import ExplainedVarianceSwitch, SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def evpo(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = ExplainedVarianceSwitch(SymmetricCritic(), threshold=0.0, lag=0),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against whichever baseline has less variance.

    Args:
        critics: The critic, and when it is believed; `lag=1` lets the batch before decide.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(evpo, PromptData, max_steps=80, val_check_interval=20)
