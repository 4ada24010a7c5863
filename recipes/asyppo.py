"""Asymmetric PPO (arXiv:2510.01656): mini-critics whose disagreement decides where the policy learns."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import GAE, AdvantageEstimator, Whiten
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import MiniCritics, ValueSpec
from rl4llm.data import PromptData
from rl4llm.gates import AgreementGate, DivergenceFilter, Gate
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, SequenceMean
from rl4llm.regularizers import EntropyBonus, Regularizer


def asyppo(
    policy: str | Pretrained = "rl4llm/digits",
    critics: ValueSpec | None = MiniCritics("rl4llm/digits-critic", size=2),  # V is their mean, σ their spread
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=0.95, lam_returns=1.0),
    whitening: Whiten | None = Whiten(),
    gate: Gate | None = AgreementGate(fraction=0.2),  # no policy gradient where the critics agree most
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    entropy: Regularizer | None = EntropyBonus(1e-3, where=DivergenceFilter(fraction=0.2)),  # none where they diverge
    aggregator: Aggregator = SequenceMean(),
    updates: Updates = Updates(epochs=1, minibatches=4),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-5, weight_decay=0.0),
    critic_updates: Updates = Updates(epochs=2, minibatches=4),
    critic_optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy against an ensemble of mini-critics.

    Args:
        critics: How many, how large, what each learns from, and how their values are joined.
        gate: Tokens from which the policy learns; null: all.
        entropy: Entropy bonus and where it is given; `--model.entropy.where=null` is the naive bonus.
    """
    return compose(
        policy,
        critics=critics,
        advantage=advantage,
        whitening=whitening,
        gate=gate,
        objective=objective,
        regularizers={"entropy": entropy},
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        critic_updates=critic_updates,
        critic_optimizer=critic_optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(asyppo, PromptData, max_steps=80, val_check_interval=10)
