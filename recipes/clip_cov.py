"""Clip-Cov (arXiv:2505.22617): a few tokens that would cost the most entropy get no gradient."""

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.gates import CovarianceGate, Gate
from rl4llm.models import Pretrained
from rl4llm.objectives import PolicyObjective, PPOClip


def clip_cov(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    gate: Gate | None = CovarianceGate(fraction=0.0002, low=1.0, high=5.0),
    objective: PolicyObjective = PPOClip(clip_low=1.0, clip_high=1.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy that keeps its entropy by leaving tokens out.

    Args:
        gate: Drops some of the tokens whose advantage and log-prob vary together.
        objective: PPO's clip, wide enough to leave the work to the gate.
    """
    return compose(
        policy,
        advantage=advantage,
        gate=gate,
        objective=objective,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(clip_cov, PromptData, max_steps=200, val_check_interval=50)
