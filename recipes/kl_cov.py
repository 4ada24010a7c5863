"""KL-Cov (arXiv:2505.22617): tokens that would cost the most entropy are held near the policy that acted."""

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.gates import HighCovariance
from rl4llm.models import Pretrained
from rl4llm.objectives import ImportanceWeighted, PolicyObjective
from rl4llm.regularizers import LogRatioPenalty, Regularizer


def kl_cov(
    policy: str | Pretrained = "rl4llm/digits",
    advantage: AdvantageEstimator = GroupRelative(),
    objective: PolicyObjective = ImportanceWeighted(),
    held: Regularizer = LogRatioPenalty(coef=1.0, where=HighCovariance(fraction=0.002)),
    **options: object,
) -> PolicyGradient:
    """Train a policy that keeps its entropy by holding tokens back.

    Args:
        held: Charge on the log-ratio, at the tokens of highest covariance.
    """
    return compose(
        policy,
        advantage=advantage,
        objective=objective,
        regularizers={"held": held},
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(kl_cov, PromptData, max_steps=200, val_check_interval=50)
