"""VinePPO (arXiv:2410.01679): the value of every step of a response, from completions that start there."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, SegmentMonteCarlo, Whiten
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import MonteCarloValues, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceSum, TokenMean
from rl4llm.regularizers import KLPenalty, Regularizer
from rl4llm.segments import FixedTokens


def vineppo(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = MonteCarloValues(  # text wants Newline() or Sentence()
        samples=9, segmenter=FixedTokens(2), unfinished=0.0
    ),
    advantage: AdvantageEstimator = SegmentMonteCarlo(),
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    kl: Regularizer | None = KLPenalty(coef=1e-4, clip=10.0, aggregator=SequenceSum()),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(epochs=2, minibatches=8),
    **options: object,
) -> PolicyGradient:
    """Train a policy against Monte-Carlo values at the boundaries of reasoning steps.

    Args:
        critics: Where responses are cut into steps, and how many completions value each boundary.
        advantage: Value after a step less value before it, the same for all tokens of the step.
        kl: Penalty on the divergence from the reference policy; null: none, and no reference is loaded.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        regularizers={"kl": kl},
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(vineppo, PromptData, max_steps=80, val_check_interval=20)
