"""Pass@k training (arXiv:2508.10751): a group is rewarded for its best k, so exploration pays."""

from rl4llm.advantages import AdvantageEstimator, PassAtKTraining
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, PPOClip


def pass_at_k(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.28),
    advantage: AdvantageEstimator = PassAtKTraining(k=4),
    **options: object,
) -> PolicyGradient:
    """Train a policy for the best of k responses.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From advantages to the policy's loss.
        advantage: What a response adds to the best of k.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(policy, objective=objective, advantage=advantage, **options)


if __name__ == "__main__":
    RecipeCLI(pass_at_k, PromptData, max_steps=200, val_check_interval=50)
