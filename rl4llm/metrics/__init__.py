"""What is watched: diagnostics of an update as functions, what is measured on held-out prompts, and its intervals."""

from rl4llm.metrics.majority import majority_rate
from rl4llm.metrics.measure import Measure, bootstrap_means, percentile_interval
from rl4llm.metrics.pass_at_k import PassAtK, pass_at_k_rate
from rl4llm.metrics.policy import approximate_kl, silenced_tokens

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
]
