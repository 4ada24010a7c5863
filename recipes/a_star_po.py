"""A*-PO (arXiv:2505.20686): the optimal value from samples of the reference, then regression with one response."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, SingleStream
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import OptimalValue, ValueSpec
from rl4llm.data import AbsoluteDifference, Filtered, PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, OptimalAdvantageRegression, PolicyObjective, SequenceMean


def a_star_po(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    critics: ValueSpec | None = OptimalValue(samples=8, beta=0.5, keep="all"),  # the offline stage, cached
    advantage: AdvantageEstimator | None = SingleStream(),  # r − V*, for the curves: the objective regresses on it
    objective: PolicyObjective = OptimalAdvantageRegression(beta=1e-3),
    aggregator: Aggregator = SequenceMean(),
    updates: Updates = Updates(minibatches=2),
    **options: object,
) -> PolicyGradient:
    """Survey the training prompts once, then regress the log-ratio on the optimal advantage.

    Args:
        critics: V* of every prompt; `--model.critics.keep=solved` leaves out prompts that the reference never solves,
            `--model.critics.cache=FILE` names the file that holds the survey.
        advantage: Score less V*.
        objective: From scores and V* to the policy's loss.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        **options,
    )


if __name__ == "__main__":
    data = {"sampler": Filtered(), "task": AbsoluteDifference(train_size=4096), "prompts_per_step": 256}
    RecipeCLI(a_star_po, PromptData, max_steps=120, val_check_interval=40, data_defaults=data)
