"""PPO with a categorical critic (arXiv:2608.02181): values are histograms, learned by cross-entropy."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import HistogramHead, SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.rollouts import DynamicSampling


def hl_gauss(
    policy: str | Pretrained = "rl4llm/digits",
    dynamic_sampling: DynamicSampling | None = DynamicSampling(max_draws=10),
    critics: ValueSpec | None = SymmetricCritic(HistogramHead(-0.1, 1.1, bins=101, sigma=0.024, target="density")),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=10.0),
    aggregator: Aggregator = TokenMean(),
    critic_warmup: int = 10,
    **options: object,
) -> PolicyGradient:
    """Train a policy against a critic that classifies the return.

    Args:
        dynamic_sampling: Prompts whose responses all score alike are drawn anew.
        critics: One as large as the policy; the bins reach some `sigma` beyond scores of 0 and 1.
    """
    return compose(
        policy,
        dynamic_sampling=dynamic_sampling,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        aggregator=aggregator,
        critic_warmup=critic_warmup,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(hl_gauss, PromptData, max_steps=80, val_check_interval=20)
