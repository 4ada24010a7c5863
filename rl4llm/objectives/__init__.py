"""Policy objectives, losses to minimize, and the aggregators that turn them into one number."""

from rl4llm.objectives.aggregate import (
    Aggregator,
    ConstantNorm,
    SequenceMean,
    SequenceSum,
    TokenMean,
    constant_norm,
    response_count,
    sequence_mean,
    sequence_sum,
    token_count,
    token_mean,
)
from rl4llm.objectives.base import PolicyObjective
from rl4llm.objectives.importance import ImportanceWeighted, importance_weighted
from rl4llm.objectives.ppo_clip import PPOClip, ppo_clip
from rl4llm.objectives.ratio import MAX_LOG_RATIO, tangent_exp, token_log_ratio, token_ratio
from rl4llm.objectives.reinforce import Reinforce, reinforce

__all__ = [
    # bases
    "PolicyObjective",
    "Aggregator",
    # objectives
    "reinforce",
    "Reinforce",
    "importance_weighted",
    "ImportanceWeighted",
    "ppo_clip",
    "PPOClip",
    # aggregators
    "token_mean",
    "TokenMean",
    "sequence_mean",
    "SequenceMean",
    "sequence_sum",
    "SequenceSum",
    "constant_norm",
    "ConstantNorm",
    "token_count",
    "response_count",
    # ratios
    "token_log_ratio",
    "token_ratio",
    "tangent_exp",
    "MAX_LOG_RATIO",
]
