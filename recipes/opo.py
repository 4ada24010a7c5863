"""OPO (arXiv:2505.23585): the baseline of least variance, a mean weighted by length; exactly on-policy."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, OptimalBaseline
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, Reinforce, SequenceSum


def opo(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = OptimalBaseline(),
    objective: PolicyObjective = Reinforce(),
    aggregator: Aggregator = SequenceSum(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy against the length-weighted mean of each prompt's scores."""
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
    RecipeCLI(opo, PromptData, max_steps=200, val_check_interval=50)
