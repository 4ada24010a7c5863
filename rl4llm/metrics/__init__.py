"""What is watched: diagnostics of an update as functions, and torchmetrics for validation."""

from rl4llm.metrics.pass_at_k import PassAtK, pass_at_k_rate
from rl4llm.metrics.policy import approximate_kl, silenced_tokens

__all__ = ["PassAtK", "pass_at_k_rate", "approximate_kl", "silenced_tokens"]
