"""REINFORCE Leave-One-Out (arXiv:2402.14740): each response against the mean of the others, fully on-policy."""

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, LeaveOneOut
from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import Aggregator, PolicyObjective, Reinforce, SequenceSum
from rl4llm.regularizers import KLReward


def rloo(
    policy: str = "rl4llm/digits",
    advantage: AdvantageEstimator = LeaveOneOut(),
    objective: PolicyObjective = Reinforce(),
    aggregator: Aggregator = SequenceSum(),  # a response is one action: the sum of its tokens
    kl_reward: KLReward | None = None,
    updates: Updates = Updates(epochs=1, minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=3e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Train a policy by REINFORCE with a leave-one-out baseline.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        advantage: From the scores of a group to advantages.
        objective: From advantages to the policy's loss.
        aggregator: From losses of tokens to a scalar.
        kl_reward: Divergence from the reference policy, in the reward.
        updates: Optimizer steps on one rollout batch.
        optimizer: Of the policy.
        options: Any other slot of `PolicyGradient`.
    """
    return PolicyGradient(
        policy,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        kl_reward=kl_reward,
        updates=updates,
        optimizer=optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(rloo, PromptData, max_steps=350, val_check_interval=50)
