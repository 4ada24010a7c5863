"""ReMax (arXiv:2310.10505): the baseline is the score of the greedy response."""

from rl4llm.advantages import AdvantageEstimator, SingleStream
from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.cli import RecipeCLI
from rl4llm.critics import GreedyValue, ValueSpec
from rl4llm.data import PromptData
from rl4llm.objectives import Aggregator, PolicyObjective, Reinforce, TokenMean


def remax(
    policy: str = "rl4llm/digits",
    critics: ValueSpec | None = GreedyValue(),
    advantage: AdvantageEstimator = SingleStream(),
    objective: PolicyObjective = Reinforce(),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=1),
    **options: object,
) -> PolicyGradient:
    """Train a policy against its own greedy responses.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        critics: Score of one greedy response to each prompt.
        advantage: Score less that of the greedy response.
        objective: From advantages to the policy's loss.
        aggregator: From losses of tokens to a scalar.
        updates: Optimizer steps on one rollout batch.
        options: Any other slot of `PolicyGradient`.
    """
    baseline, loss = {"critics": critics, "advantage": advantage}, {"objective": objective, "aggregator": aggregator}
    return PolicyGradient(policy, updates=updates, **baseline, **loss, **options)


if __name__ == "__main__":
    RecipeCLI(remax, PromptData, max_steps=300, val_check_interval=75)
