"""REINFORCE++ (arXiv:2501.03262): no groups; advantages are normalized over all tokens of the batch."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, MonteCarlo, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean
from rl4llm.regularizers import KLReward


def reinforce_plus_plus(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    kl_reward: KLReward | None = KLReward(coef=1e-3, estimator="k1"),
    advantage: AdvantageEstimator = MonteCarlo(),
    whitening: Whiten | None = Whiten(level="token"),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = SequenceMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy against the mean of the whole batch.

    Args:
        advantage: The return of each token.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        kl_reward=kl_reward,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(
        reinforce_plus_plus, PromptData, max_steps=200, val_check_interval=50, data_defaults={"prompts_per_step": 256}
    )
