"""Value sources and what belongs to them: aggregation over critics, data shards, value losses, diagnostics."""

from importlib import import_module
from typing import Any

from rl4llm.critic_values import critic_first, critic_mean, critic_min, critic_std
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.blending import blend_coefficient, position_bins, spread_bins, trusted_mean
from rl4llm.critics.bounded import bounded_value
from rl4llm.critics.greedy import GreedyValue, GreedyValueSource
from rl4llm.critics.heads import BoundedHead, Head, HistogramHead, LinearHead, QuantileHead, SigmoidHead
from rl4llm.critics.hl_gauss import hl_gauss_loss, hl_gauss_spread, hl_gauss_value
from rl4llm.critics.layers import ValueHead
from rl4llm.critics.losses import ClippedValueLoss, SquaredValueLoss, ValueLoss
from rl4llm.critics.monte_carlo import MonteCarloValues, MonteCarloValuesSource
from rl4llm.critics.noise_weights import NoiseNormalizedValueLoss, noise_weights
from rl4llm.critics.optimal_value import OptimalValue, OptimalValueSource, optimal_value
from rl4llm.critics.prompt_errors import prompt_errors, proved_prompts
from rl4llm.critics.quantiles import quantile_loss, quantile_spread
from rl4llm.critics.ridge import RidgeFit, ridge_fit, ridge_predict
from rl4llm.critics.shards import group_shards, learns_from, prompt_shards, random_shards, shared_shards
from rl4llm.critics.siblings import leave_one_out_mean
from rl4llm.critics.tracker import BetaTracker, BetaTrackerSource, beta_tracker_update
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec
from rl4llm.states import PolicyStates
from rl4llm.value_diagnostics import (
    calibration_curve,
    calibration_error,
    explained_variance,
    rank_correlation,
    response_places,
    spread_error_correlation,
)
from rl4llm.value_losses import binary_value_loss, clipped_value_loss, value_loss

# Loaded on first use: whoever only wants the functions should not wait for transformers.
_LAZY = {
    "ValueModel": "value_model",
    "CriticEnsemble": "ensemble",
    "MiniCritics": "mini",
    "SymmetricCritic": "mini",
    "AdapterCritics": "adapters",
    "EnsembleSpec": "ensemble_spec",
    "Privileged": "privileged",
    "PrivilegedSource": "privileged",
    "BatchMean": "batch_mean",
    "BatchMeanSource": "batch_mean",
    "Tether": "tether",
    "TetherSource": "tether",
    "ExplainedVarianceSwitch": "variance_switch",
    "ExplainedVarianceSwitchSource": "variance_switch",
    "Readiness": "readiness",
    "ReadinessSource": "readiness",
    "SpreadBlend": "spread_blend",
    "SpreadBlendSource": "spread_blend",
    "prior_variances": "spread_blend",
    "spread_trust": "spread_blend",
    "CrossRolloutProbe": "probe",
    "CrossRolloutProbeSource": "probe",
    "probe_features": "probe",
    "TrunkCritic": "trunk",
    "TrunkCriticSource": "trunk",
}

__all__ = [
    # base
    "ValueSource",
    "ValueSpec",
    "ValueContext",
    "PolicyStates",
    "ValueLoss",
    # critics
    "MiniCritics",
    "SymmetricCritic",
    "AdapterCritics",
    "EnsembleSpec",
    "BatchMean",
    "BatchMeanSource",
    "Privileged",
    "PrivilegedSource",
    "Tether",
    "TetherSource",
    "SpreadBlend",
    "SpreadBlendSource",
    "prior_variances",
    "spread_trust",
    "blend_coefficient",
    "ExplainedVarianceSwitch",
    "ExplainedVarianceSwitchSource",
    "trusted_mean",
    "spread_bins",
    "position_bins",
    "Readiness",
    "ReadinessSource",
    "prompt_errors",
    "proved_prompts",
    "leave_one_out_mean",
    "WrappingSource",
    "WrappingSpec",
    "CriticEnsemble",
    "ValueModel",
    "TrunkCritic",
    "TrunkCriticSource",
    # heads
    "Head",
    "LinearHead",
    "BoundedHead",
    "SigmoidHead",
    "HistogramHead",
    "QuantileHead",
    "ValueHead",
    "bounded_value",
    "quantile_spread",
    "hl_gauss_value",
    "hl_gauss_spread",
    # other sources
    "BetaTracker",
    "BetaTrackerSource",
    "beta_tracker_update",
    "OptimalValue",
    "OptimalValueSource",
    "optimal_value",
    "MonteCarloValues",
    "MonteCarloValuesSource",
    "GreedyValue",
    "GreedyValueSource",
    "CrossRolloutProbe",
    "CrossRolloutProbeSource",
    "probe_features",
    "RidgeFit",
    "ridge_fit",
    "ridge_predict",
    # aggregation
    "critic_mean",
    "critic_min",
    "critic_first",
    "critic_std",
    # shards
    "group_shards",
    "prompt_shards",
    "shared_shards",
    "random_shards",
    "learns_from",
    # losses
    "value_loss",
    "clipped_value_loss",
    "SquaredValueLoss",
    "ClippedValueLoss",
    "binary_value_loss",
    "noise_weights",
    "NoiseNormalizedValueLoss",
    "hl_gauss_loss",
    "quantile_loss",
    # diagnostics
    "explained_variance",
    "spread_error_correlation",
    "calibration_error",
    "calibration_curve",
    "response_places",
    "rank_correlation",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
