"""REINFORCE Leave-One-Out (arXiv:2402.14740): each response against the mean of the others, fully on-policy."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, LeaveOneOut
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, Reinforce, SequenceSum
from rl4llm.regularizers import KLReward


def rloo(
    policy: str | Pretrained = "rl4llm/digits",
    kl_reward: KLReward | None = None,
    advantage: AdvantageEstimator = LeaveOneOut(),
    objective: PolicyObjective = Reinforce(),
    aggregator: Aggregator = SequenceSum(),  # a response is one action: the sum of its tokens
    updates: Updates = Updates(epochs=1, minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy by REINFORCE with a leave-one-out baseline."""
    return compose(
        policy,
        kl_reward=kl_reward,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(rloo, PromptData, max_steps=80, val_check_interval=10)
