"""GSPO: one ratio for the whole response, the geometric mean of its tokens' ratios."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.clamping import inclusive_clamp
from rl4llm.masked import at_least_float32, keep, masked_mean
from rl4llm.objectives.base import RatioObjective
from rl4llm.objectives.ppo_clip import check_bounds
from rl4llm.ratios import tangent_exp, token_log_ratio


def gspo(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Float[Tensor, " batch"]:
    """Compute the clipped policy loss of each response from the geometric mean of its ratios.

        s = exp((1/|y|) Σₜ (log π_θ(yₜ) − log π_old(yₜ)))        A = (1/|y|) Σₜ Aₜ
        ℓ = −min(s A, clip(s, 1 − clip_low, 1 + clip_high) A)

        ∂ℓ/∂log π_θ(yₜ) = 0 if (A > 0 and s > 1 + clip_high) or (A < 0 and s < 1 − clip_low), else −s A / |y|

    A response is kept or dropped as one. s moves far less than a token's ratio, hence the narrow bounds. Sums run over
    the |y| trained tokens. Above e²⁰ the ratio is continued by its tangent, see [tangent_exp][].

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants; the response has their mean.
        response_mask: True at trained tokens; the others are read only there.
        clip_low: Width below 1, in [0, 1].
        clip_high: Width above 1, at least 0.

    Returns:
        Loss of each response, to be minimized, in the dtype of `log_probs`; 0 for one without trained tokens.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a width is outside its range.

    Example:
        >>> log_probs = torch.tensor([[0.4, 0.4]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.8, 0.2]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> loss = gspo(log_probs, old, torch.ones(1, 2), mask)
        >>> loss.sum().backward()
        >>> loss.detach(), log_probs.grad
        (tensor([-1.]), tensor([[-0.5000, -0.5000]]))

    References:
        Zheng et al., 2025. arXiv:2507.18071, §4.1 (as in the code of frameworks that cite it).
    """
    check_bounds("gspo", clip_low, clip_high)
    check_token_tensors("gspo", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    costs = -masked_mean(advantages.detach(), response_mask, dim=-1)
    ratios = _response_ratio(log_probs, old_log_probs, response_mask)
    return _clipped(ratios, costs, clip_low, clip_high).to(log_probs.dtype)


def gspo_token(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Float[Tensor, "batch time"]:
    """Compute the loss of GSPO per token, so that tokens may have their own advantages or be dropped by a gate.

        sₜ = sg[s] π_θ(yₜ) / sg[π_θ(yₜ)],   s as in [gspo][]
        ℓₜ = −min(sₜ Aₜ, clip(sₜ, 1 − clip_low, 1 + clip_high) Aₜ)

        ∂ℓₜ/∂log π_θ(yₜ) = 0 if (Aₜ > 0 and s > 1 + clip_high) or (Aₜ < 0 and s < 1 − clip_low), else −s Aₜ

    With one advantage per response, the mean over its tokens has the value and the gradient of [gspo][]. Arguments and
    errors as in [gspo][].

    Returns:
        Loss of each token, to be minimized, in the dtype of `log_probs`; 0 where `response_mask` is False.

    Example:
        >>> log_probs = torch.tensor([[0.4, 0.4]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.8, 0.2]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> gspo_token(log_probs, old, torch.tensor([[1.0, -2.0]]), mask).sum().backward()
        >>> log_probs.grad
        tensor([[-1.,  2.]])

    References:
        Zheng et al., 2025. arXiv:2507.18071, §4.3 (as in the code of frameworks that cite it).
    """
    check_bounds("gspo_token", clip_low, clip_high)
    check_token_tensors(
        "gspo_token", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    costs = keep(-at_least_float32(advantages.detach()), response_mask)
    kept = keep(at_least_float32(log_probs), response_mask)
    ratios = _response_ratio(log_probs.detach(), old_log_probs, response_mask)[:, None] * (kept - kept.detach()).exp()
    return _clipped(ratios, costs, clip_low, clip_high).to(log_probs.dtype)


def _response_ratio(log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor) -> Tensor:
    log_ratios = token_log_ratio(at_least_float32(log_probs), old_log_probs, response_mask)
    return tangent_exp(masked_mean(log_ratios, response_mask, dim=-1))


def _clipped(ratios: Tensor, costs: Tensor, clip_low: float, clip_high: float) -> Tensor:
    return torch.maximum(ratios * costs, inclusive_clamp(ratios, 1.0 - clip_low, 1.0 + clip_high) * costs)


@dataclass(frozen=True)
class GSPO(RatioObjective):
    """Objective of GSPO: the clipped policy loss of whole responses. See [gspo][].

    Args:
        clip_low: Width below 1, in [0, 1].
        clip_high: Width above 1, at least 0.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    level: ClassVar[Literal["token", "response"]] = "response"
    paper: ClassVar[str] = "2507.18071"
    function = staticmethod(gspo)
    check = staticmethod(check_bounds)


@dataclass(frozen=True)
class GSPOToken(RatioObjective):
    """Objective of GSPO per token, which accepts gates and per-token advantages. See [gspo_token][].

    Args:
        clip_low: Width below 1, in [0, 1].
        clip_high: Width above 1, at least 0.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    paper: ClassVar[str] = "2507.18071"
    function = staticmethod(gspo_token)
    check = staticmethod(check_bounds)
