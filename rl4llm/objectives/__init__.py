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
from rl4llm.objectives.cispo import CISPO, cispo
from rl4llm.objectives.dppo import DPPO, binary_kl, binary_tv, dppo
from rl4llm.objectives.importance import ImportanceWeighted, importance_weighted
from rl4llm.objectives.min_prefix_ratio import MinPrefixRatio, min_prefix_ratio
from rl4llm.objectives.ppo_clip import PPOClip, ppo_clip
from rl4llm.objectives.ratio import MAX_LOG_RATIO, tangent_exp, token_log_ratio, token_ratio
from rl4llm.objectives.ratio_variance import RatioVariance, ratio_variance
from rl4llm.objectives.reinforce import Reinforce, reinforce, weighted_reinforce
from rl4llm.objectives.sapo import SAPO, sapo
from rl4llm.objectives.sols import SoLS, sols
from rl4llm.objectives.topr import TOPR, topr

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
    "dppo",
    "DPPO",
    "min_prefix_ratio",
    "MinPrefixRatio",
    "ratio_variance",
    "RatioVariance",
    "cispo",
    "CISPO",
    "sapo",
    "SAPO",
    "sols",
    "SoLS",
    "topr",
    "TOPR",
    "weighted_reinforce",
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
    "binary_tv",
    "binary_kl",
    "MAX_LOG_RATIO",
]
