"""Single-stream Policy Optimization (arXiv:2509.13232): one response a prompt, against its tracked value."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, SingleStream, Whiten
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import BetaTracker, ValueSpec
from rl4llm.data import AbsoluteDifference, Prioritized, PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def spo(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    critics: ValueSpec | None = BetaTracker(samples=8, rho_min=0.875, rho_max=0.96, half_life=0.06),
    advantage: AdvantageEstimator = SingleStream(),
    whitening: Whiten | None = Whiten(level="response"),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=8),
    **options: object,
) -> PolicyGradient:
    """Train a policy without groups.

    Args:
        critics: The tracker: what is known of each prompt, started from some samples and forgotten as the policy moves.
        advantage: Score less tracked value.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    data = {"sampler": Prioritized(), "task": AbsoluteDifference(train_size=4096), "prompts_per_step": 256}
    RecipeCLI(spo, PromptData, max_steps=60, val_check_interval=20, data_defaults=data)
