"""RAFT++ (arXiv:2504.11343): clipped policy gradient on successes only."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, MonteCarlo
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.gates import CorrectResponses, Gate
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.regularizers import KLPenalty, Regularizer


def raft(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = MonteCarlo(),
    gate: Gate | None = CorrectResponses(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    kl: Regularizer | None = KLPenalty(coef=1e-3, estimator="k3"),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy on its own correct responses.

    Args:
        advantage: The score, at every token.
        gate: Tokens from which the policy learns: those of correct responses.
        kl: Penalty on the divergence from the reference policy; null: none, and no reference is loaded.
    """
    return compose(
        policy,
        advantage=advantage,
        gate=gate,
        objective=objective,
        regularizers={"kl": kl},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(raft, PromptData, max_steps=200, val_check_interval=50)
