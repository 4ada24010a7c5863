"""Estimates of the KL divergence of two policies from the sampled token."""

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.ratios import masked_log_ratio, tangent_exp


def kl_k1(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """KL estimate k1: the log-ratio itself.

        u = log π_ref(yₜ) − log π_θ(yₜ)        k1 = −u        ∂k1/∂log π_θ(yₜ) = 1

    Value: E[k1] = KL(π_θ‖π_ref), unbiased; single tokens may be negative, with a large variance. Gradient:
    E[∇k1] = 0, so as a penalty it does nothing but add noise. Use it in the reward
    (`rl4llm.regularizers.kl_reward`), where its score gradient is exactly ∇KL. (E is over
    yₜ ~ π_θ(·|sₜ): on-policy, one state at a time.)

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        ref_log_probs: log π_ref(yₜ), under the frozen reference; constants.
        response_mask: True at trained tokens; the two are read only there.

    Returns:
        k1 of each token in the dtype of `log_probs`; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> import torch
        >>> kl_k1(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, True]]))
        tensor([[ 0.5000, -1.0000]])

    References:
        Schulman, 2020. Approximating KL divergence (the names k1, k2, k3).
    """
    return _log_ratio("kl_k1", log_probs, ref_log_probs, response_mask).to(log_probs.dtype)


def kl_k2(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """KL estimate k2: half the squared log-ratio.

        u = log π_ref(yₜ) − log π_θ(yₜ)        k2 = u²/2        ∂k2/∂log π_θ(yₜ) = −u

    Value: at least 0, biased; E[k2] − KL(π_θ‖π_ref) is of third order in u. Gradient: E[∇k2] = ∇KL(π_θ‖π_ref),
    unbiased: the one estimate whose derivative is right as a penalty. Arguments, result and errors as in [kl_k1][].

    Example:
        >>> import torch
        >>> kl_k2(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, True]]))
        tensor([[0.1250, 0.5000]])

    References:
        Schulman, 2020. Approximating KL divergence.
    """
    log_ratio = _log_ratio("kl_k2", log_probs, ref_log_probs, response_mask)
    return (log_ratio**2 / 2).to(log_probs.dtype)


def kl_k3(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """KL estimate k3: the log-ratio with a control variate that keeps it positive.

        u = log π_ref(yₜ) − log π_θ(yₜ)        k3 = eᵘ − u − 1        ∂k3/∂log π_θ(yₜ) = 1 − eᵘ

    Value: at least 0 and unbiased, E[k3] = KL(π_θ‖π_ref), with less variance than k1 while the two are close.
    Gradient: E[∇k3] = ∇KL(π_ref‖π_θ), that of the *other* direction: biased for KL(π_θ‖π_ref), equal to it only to
    first order around π_θ = π_ref. eᵘ is continued by its tangent above u = 20, see [tangent_exp][]. Arguments,
    result and errors as in [kl_k1][].

    Example:
        >>> import torch
        >>> kl_k3(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, True]]))
        tensor([[0.1065, 0.7183]])

    References:
        Schulman, 2020. Approximating KL divergence.
        Shao et al., 2024. arXiv:2402.03300, eq. 4.
    """
    log_ratio = _log_ratio("kl_k3", log_probs, ref_log_probs, response_mask)
    return (tangent_exp(-log_ratio, minus_one=True) + log_ratio).to(log_probs.dtype)


def _log_ratio(by: str, log_probs: Tensor, ref_log_probs: Tensor, response_mask: Tensor) -> Tensor:
    check_token_tensors(by, response_mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    return masked_log_ratio(log_probs, ref_log_probs, response_mask)


KL_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
