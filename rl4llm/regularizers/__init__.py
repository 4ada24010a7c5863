"""Penalties that are added to the policy objective: entropy, and divergence from a reference in loss or reward."""

from rl4llm.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3
from rl4llm.regularizers.base import Regularizer
from rl4llm.regularizers.constrained import Constrained, DualVariable
from rl4llm.regularizers.entropy import EntropyBonus, entropy_bonus
from rl4llm.regularizers.kl import KLPenalty, kl_penalty
from rl4llm.regularizers.kl_reward import KLReward, kl_reward
from rl4llm.regularizers.likelihood import Likelihood, likelihood_bonus
from rl4llm.regularizers.ratio import LogRatioPenalty, RatioPenalty, log_ratio_distance, ratio_deviation
from rl4llm.regularizers.value import ValueRegression

__all__ = [
    # base
    "Regularizer",
    # entropy
    "entropy_bonus",
    "EntropyBonus",
    # divergence in the loss
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalty",
    "KLPenalty",
    "KL_ESTIMATORS",
    # distance from the policy at the start of the update
    "ratio_deviation",
    "RatioPenalty",
    "log_ratio_distance",
    "LogRatioPenalty",
    # imitation and values
    "likelihood_bonus",
    "Likelihood",
    "ValueRegression",
    # a bound in place of a weight
    "Constrained",
    "DualVariable",
    # divergence in the reward
    "kl_reward",
    "KLReward",
]
