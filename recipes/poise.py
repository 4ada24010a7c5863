"""POISE (arXiv:2605.07579): a baseline that a linear probe reads from the policy's states of the other response."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import CrossRolloutProbe, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean


def poise(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 2,
    critics: ValueSpec | None = CrossRolloutProbe(layer=0.5, span=10, ridge=0.01, window=8),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy on many prompts with two responses each; what one response shows is the other one's baseline.

    Args:
        critics: The probe: ridge regression on hidden states and entropies, fitted again after every batch.
        advantage: R − b at every token, since the baseline does not change along the response.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(poise, PromptData, max_steps=120, val_check_interval=40, data_defaults={"prompts_per_step": 64})
