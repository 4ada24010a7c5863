"""Proximal Policy Optimization (arXiv:1707.06347) with one critic as large as the policy."""

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import EntropyBonus, Regularizer


def ppo(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=0.95, lam_returns=1.0),
    whitening: Whiten | None = Whiten(),
    entropy: Regularizer | None = EntropyBonus(1e-3),
    critics: ValueSpec | None = SymmetricCritic(),
    critic_optimizer: OptimizerCallable = lambda params: AdamW(params, lr=5e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy against its critic's value.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From advantages to the policy's loss.
        advantage: From rewards and values to advantages and value targets.
        whitening: Normalizes the advantages of the rollout batch.
        entropy: Entropy bonus.
        critics: The value source.
        critic_optimizer: Of the critic.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(
        policy,
        objective=objective,
        advantage=advantage,
        whitening=whitening,
        regularizers={"entropy": entropy},
        critics=critics,
        critic_optimizer=critic_optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(ppo, PromptData, max_steps=180, val_check_interval=30)
