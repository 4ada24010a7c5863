"""Log-probs for tests: never above 0, however they are made."""

import torch


def moved(log_probs, by):
    """Log-probs after a step of the policy."""
    return (log_probs + by).clamp(max=-1e-6)


def random_log_probs(*shape, generator=None, dtype=torch.float64):
    """Log-probs of moderate tokens."""
    return -3 * torch.rand(*shape, generator=generator, dtype=dtype)
