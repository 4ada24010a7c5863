"""ReMax (arXiv:2310.10505): the baseline is the score of the greedy response."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, SingleStream
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import GreedyValue, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, Reinforce, TokenMean


def remax(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = GreedyValue(),
    advantage: AdvantageEstimator = SingleStream(),
    objective: PolicyObjective = Reinforce(),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy against its own greedy responses.

    Args:
        critics: Score of one greedy response to each prompt.
        advantage: Score less that of the greedy response.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(remax, PromptData, max_steps=200, val_check_interval=50)
