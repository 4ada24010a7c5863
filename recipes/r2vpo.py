"""R²VPO (arXiv:2601.03320): the variance of the ratio is held below a limit, so stale data need not be thrown away."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, ImportanceWeighted, PolicyObjective, TokenMean
from rl4llm.regularizers import Constrained, RatioPenalty, Regularizer
from rl4llm.replay import FIFOReplay, ReplaySpec


def r2vpo(
    policy: str | Pretrained = "rl4llm/digits",
    replay: ReplaySpec | None = FIFOReplay(capacity=1024, share=0.5),
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = ImportanceWeighted(),
    variance: Regularizer = Constrained(RatioPenalty(), limit=0.04, initial=0.04, lr=0.05),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy on fresh and stored responses under a constraint on the variance of its ratios.

    Args:
        variance: Charge on (r − 1)², its weight a dual variable; `--model.variance.lr=0` keeps the weight.
    """
    return compose(
        policy,
        replay=replay,
        advantage=advantage,
        objective=objective,
        regularizers={"variance": variance},
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(r2vpo, PromptData, max_steps=80, val_check_interval=20)
