"""EasyPPO (arXiv:2609.36802): prompts whose outcome is known are not drowned by those whose outcome is a coin."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient, Truncation, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import ClippedValueLoss, NoiseNormalizedValueLoss, SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean
from rl4llm.regularizers import KLPenalty, Regularizer


def easyppo(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 16,
    truncation: Truncation = "actor_only",
    critics: ValueSpec | None = SymmetricCritic(loss=NoiseNormalizedValueLoss(loss=ClippedValueLoss(clip=0.2))),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    whitening: Whiten | None = Whiten(),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28, dual_clip=3.0),
    kl: Regularizer | None = KLPenalty(coef=1e-3, estimator="k3"),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    critic_updates: Updates = Updates(minibatches=4),
    critic_warmup: int = 10,
    **options: object,
) -> PolicyGradient:
    """Train a policy against a critic that steps more often, on returns weighted by the noise of their prompt.

    Args:
        truncation: The critic learns from truncated responses, the policy does not.
        critics: One as large as the policy, its loss weighted by prompt.
        kl: Penalty on the divergence from the reference policy; null: none, and no reference is loaded.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        truncation=truncation,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        objective=objective,
        regularizers={"kl": kl},
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        critic_updates=critic_updates,
        critic_warmup=critic_warmup,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(easyppo, PromptData, max_steps=120, val_check_interval=40, data_defaults={"prompts_per_step": 8})
