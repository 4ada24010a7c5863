"""What is watched: diagnostics of an update, of critics and of gates, what is measured on held-out prompts."""

from rl4llm.metrics.gated import KINDS, GatedShare, Vocabulary, kinds_at, token_kinds
from rl4llm.metrics.majority import majority_rate
from rl4llm.metrics.measure import Measure, bootstrap_means, percentile_interval
from rl4llm.metrics.pass_at_k import PassAtK, pass_at_k_rate
from rl4llm.metrics.policy import approximate_kl, silenced_tokens
from rl4llm.metrics.values import Calibration, ErrorByPlace, ExplainedVariance, SpreadErrorRankCorrelation

__all__ = [
    # on held-out prompts
    "Measure",
    "PassAtK",
    "pass_at_k_rate",
    "majority_rate",
    "bootstrap_means",
    "percentile_interval",
    # of an update
    "approximate_kl",
    "silenced_tokens",
    # of critics
    "ExplainedVariance",
    "Calibration",
    "ErrorByPlace",
    "SpreadErrorRankCorrelation",
    # of gates
    "GatedShare",
    "token_kinds",
    "kinds_at",
    "KINDS",
    "Vocabulary",
]
