"""Succeed or Learn Slowly (arXiv:2509.01720): failures teach only near the policy, successes are replayed."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SigmoidHead, TrunkCritic, ValueSpec
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean, SoLS
from rl4llm.regularizers import Regularizer, ValueRegression
from rl4llm.replay import ReplaySpec, SuccessReplay


def sols(
    policy: str | Pretrained = "rl4llm/digits",
    replay: ReplaySpec | None = SuccessReplay(per_prompt=50),
    critics: ValueSpec | None = TrunkCritic(head=SigmoidHead()),  # V in (0, 1): the sign of R − V is that of success
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),  # R − V(sₜ)
    objective: PolicyObjective = SoLS(clip=0.2),
    value: Regularizer = ValueRegression(coef=0.5),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy with a value head on its own trunk and a store of its successes.

    Args:
        replay: Successes of each prompt beside the fresh responses, one to two.
        critics: The value head.
        value: The head's loss, whose gradient reaches the whole policy.
    """
    return compose(
        policy,
        replay=replay,
        critics=critics,
        advantage=advantage,
        objective=objective,
        regularizers={"value": value},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(
        sols,
        PromptData,
        max_steps=90,
        val_check_interval=30,
        data_defaults={"task": AbsoluteDifference(train_size=2048)},
    )
