"""How much likelier the trainer makes a token than the engine that drew it."""

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import UsageError, check_token_tensors
from rl4llm.masked import at_least_float32, keep
from rl4llm.ratios import MAX_LOG_RATIO, token_log_ratio


def engine_log_ratio(
    old_log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    by: str = "engine_log_ratio",
) -> Float[Tensor, "batch time"]:
    """Log-weight of each token between the trainer's policy and the engine's.

        log wₜ = log π_old(yₜ) − log μ(yₜ)        a constant in float32 or wider; 0 where `response_mask` is False

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the engine gave no log-probs (NaN at a trained token).

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, False]])
        >>> engine_log_ratio(torch.tensor([[-1.0, 0.0]]), torch.tensor([[-1.5, 0.0]]), mask)
        tensor([[0.5000, 0.0000]])
    """
    check_token_tensors(by, response_mask, old_log_probs=old_log_probs, rollout_log_probs=rollout_log_probs)
    if keep(rollout_log_probs, response_mask).isnan().any():
        raise UsageError(
            f"{by}: rollout_log_probs are NaN at trained tokens, so there is nothing to correct by; use an engine that "
            "reports log-probs, or leave the correction out."
        )
    return token_log_ratio(at_least_float32(old_log_probs.detach()), rollout_log_probs, response_mask)


def weight(log_ratio: Float[Tensor, "*axes"], log_cap: float = MAX_LOG_RATIO) -> Float[Tensor, "*axes"]:
    """min(exp log_ratio, cap), which never overflows: no weight is above e²⁰."""
    return log_ratio.clamp(max=min(log_cap, MAX_LOG_RATIO)).exp()
