"""MaxRL (arXiv:2602.02710): advantages over the success rate, so rare successes weigh most."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, MaxRL
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def max_rl(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = MaxRL(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy towards the likelihood of success.

    Args:
        advantage: Score less the group's mean, over that mean.
        objective: PPO's clip, which never bites while every batch is used for one step.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(max_rl, PromptData, max_steps=200, val_check_interval=50)
