"""REBEL (arXiv:2404.16767): differences of log-ratios are regressed on differences of scores."""

import rl4llm.start

from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import REBEL, Aggregator, PolicyObjective, SequenceMean


def rebel(
    policy: str | Pretrained = "rl4llm/digits",
    objective: PolicyObjective = REBEL(eta=1.0),
    aggregator: Aggregator = SequenceMean(),
    updates: Updates = Updates(epochs=2, minibatches=2),
    **options: object,
) -> PolicyGradient:
    """Train a policy by regression over all pairs of responses to a prompt.

    Args:
        objective: From scores to the policy's loss; it compares siblings, so groups are never cut.
    """
    return compose(
        policy,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(rebel, PromptData, max_steps=200, val_check_interval=50)
