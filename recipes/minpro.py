"""MinPRO (arXiv:2601.22718): a token weighs its own ratio times the smallest ratio before it."""

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import Aggregator, MinPrefixRatio, PolicyObjective, TokenMean


def minpro(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = MinPrefixRatio(clip_low=1.0, clip_high=4.0),
    aggregator: Aggregator = TokenMean(),
    advantage: AdvantageEstimator = GroupRelative(),
    updates: Updates = Updates(minibatches=8),  # the prefix matters where the policy moves off its data
    **options: object,
) -> PolicyGradient:
    """Train a policy off its own data with the minimum prefix ratio.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From advantages to the policy's loss.
        aggregator: From losses of tokens to a scalar.
        advantage: From the scores of a group to advantages.
        updates: Optimizer steps on one rollout batch.
        options: Any other slot of `PolicyGradient`.
    """
    slots = {"objective": objective, "aggregator": aggregator, "advantage": advantage, "updates": updates}
    return PolicyGradient(policy, **slots, **options)


if __name__ == "__main__":
    RecipeCLI(minpro, PromptData, max_steps=100, val_check_interval=25)
