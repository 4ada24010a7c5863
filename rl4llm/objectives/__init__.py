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
from rl4llm.objectives.base import PolicyObjective, RatioObjective
from rl4llm.objectives.bellman_residual import TrajectoryBellmanResidual, trajectory_bellman_residual
from rl4llm.objectives.cispo import CISPO, cispo
from rl4llm.objectives.divergences import binary_kl, binary_tv, mass_kl, mass_tv, top_masses
from rl4llm.objectives.dppo import DPPO, divergence_mask, dppo
from rl4llm.objectives.entropy_ratio import EntropyRatioClip, entropy_ratio_mask
from rl4llm.objectives.gmpo import GMPO, gmpo
from rl4llm.objectives.gspo import GSPO, GSPOToken, gspo, gspo_token
from rl4llm.objectives.importance import ImportanceWeighted, importance_weighted
from rl4llm.objectives.masked_importance import MaskedImportanceWeighted, masked_importance_weighted
from rl4llm.objectives.min_prefix_ratio import MinPrefixRatio, min_prefix_ratio
from rl4llm.objectives.optimal_advantage import OptimalAdvantageRegression, optimal_advantage_regression
from rl4llm.objectives.ppo_clip import PPOClip, ppo_clip
from rl4llm.objectives.ratio_variance import RatioVariance, ratio_variance
from rl4llm.objectives.rebel import REBEL, rebel
from rl4llm.objectives.reinforce import Reinforce, reinforce, weighted_reinforce
from rl4llm.objectives.responses import at_first_token, response_log_ratio, scored_responses
from rl4llm.objectives.sapo import SAPO, sapo
from rl4llm.objectives.sols import SoLS, sols
from rl4llm.objectives.topr import TOPR, topr
from rl4llm.ratios import MAX_LOG_RATIO, tangent_exp, token_log_ratio, token_ratio

__all__ = [
    # bases
    "PolicyObjective",
    "RatioObjective",
    "Aggregator",
    # objectives
    "reinforce",
    "Reinforce",
    "importance_weighted",
    "ImportanceWeighted",
    "masked_importance_weighted",
    "MaskedImportanceWeighted",
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
    "gspo",
    "GSPO",
    "gspo_token",
    "GSPOToken",
    "gmpo",
    "GMPO",
    "entropy_ratio_mask",
    "EntropyRatioClip",
    # regressions
    "optimal_advantage_regression",
    "OptimalAdvantageRegression",
    "trajectory_bellman_residual",
    "TrajectoryBellmanResidual",
    "rebel",
    "REBEL",
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
    "response_log_ratio",
    "scored_responses",
    "at_first_token",
    "tangent_exp",
    "binary_tv",
    "binary_kl",
    "top_masses",
    "mass_tv",
    "mass_kl",
    "divergence_mask",
    "MAX_LOG_RATIO",
]
