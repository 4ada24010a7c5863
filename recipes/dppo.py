"""Divergence Proximal Policy Optimization (arXiv:2602.04879): tokens are dropped by divergence, not by ratio."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, GroupRelative
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import DPPO, Aggregator, PolicyObjective, SequenceSum
from rl4llm.rollouts import EngineSpec, HuggingFaceRollout


def dppo(
    policy: str | Pretrained = "rl4llm/digits",
    engine: EngineSpec = HuggingFaceRollout(top_log_probs=8),  # read by the top-K divergences only
    advantage: AdvantageEstimator = GroupRelative(normalize_std=False),
    objective: PolicyObjective = DPPO(divergence="tv", delta_low=0.15, delta_high=0.15),
    aggregator: Aggregator = SequenceSum(),
    **options: object,
) -> PolicyGradient:
    """Train a policy under a divergence mask anchored at the policy that sampled.

    Args:
        engine: What draws responses; `--model.objective.divergence=topk_tv` compares its likeliest tokens.
        advantage: From the scores of a group to advantages, not divided by their spread.
    """
    return compose(
        policy,
        engine=engine,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(dppo, PromptData, max_steps=120, val_check_interval=40)
