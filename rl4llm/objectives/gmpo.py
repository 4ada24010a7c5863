"""GMPO: the geometric mean of ratios that are clipped one token at a time."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_interval, check_token_tensors
from rl4llm.clamping import inclusive_clamp
from rl4llm.masked import at_least_float32, masked_mean
from rl4llm.objectives.base import RatioObjective
from rl4llm.ratios import tangent_exp, token_log_ratio


def gmpo(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip: float = 0.4,
) -> Float[Tensor, " batch"]:
    """Compute the policy loss of each response from the geometric mean of its clipped ratios.

        dₜ = log π_θ(yₜ) − log π_old(yₜ)        A = (1/|y|) Σₜ Aₜ
        d̃ₜ = min(dₜ, clip) where A ≥ 0,   max(dₜ, −clip) where A < 0
        ϱ = exp((1/|y|) Σₜ d̃ₜ)        ℓ = −A ϱ

        ∂ℓ/∂log π_θ(yₜ) = 0 if (A > 0 and dₜ > clip) or (A < 0 and dₜ < −clip), else −A ϱ / |y|

    As in PPO a token is dropped only once it has moved past the bound in the direction that the advantage asks for; as
    in GSPO the tokens share one weight. The width is one of log-ratios: 0.4 keeps ratios in [0.67, 1.49]. Sums run
    over the |y| trained tokens. Above e²⁰ the mean is continued by its tangent, see [tangent_exp][].

    Args:
        log_probs: log π_θ(yₜ), t in [0, T).
        old_log_probs: log π_old(yₜ), under the policy at the start of the update; constants.
        advantages: Aₜ; constants; the response has their mean.
        response_mask: True at trained tokens; the others are read only there.
        clip: Bound on a token's log-ratio, at least 0.

    Returns:
        Loss of each response, to be minimized, in the dtype of `log_probs`; 0 for one without trained tokens.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the bound is negative.

    Example:
        >>> log_probs = torch.tensor([[0.8, 0.2]]).log().requires_grad_()
        >>> old, mask = torch.tensor([[0.2, 0.2]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> gmpo(log_probs, old, torch.ones(1, 2), mask).sum().backward()
        >>> -log_probs.grad  # exp(0.4 / 2) / 2
        tensor([[-0.0000, 0.6107]])

    References:
        Zhao et al., 2025. arXiv:2507.20673 (one-sided bound as derived from the authors' code).
    """
    check_gmpo("gmpo", clip)
    check_token_tensors("gmpo", response_mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    means = masked_mean(advantages.detach(), response_mask, dim=-1)
    log_ratios = token_log_ratio(at_least_float32(log_probs), old_log_probs, response_mask)
    above, below = inclusive_clamp(log_ratios, high=clip), inclusive_clamp(log_ratios, -clip)
    bounded = torch.where(means[:, None] >= 0, above, below)
    return (-means * tangent_exp(masked_mean(bounded, response_mask, dim=-1))).to(log_probs.dtype)


def check_gmpo(by: str, clip: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, clip=clip)


@dataclass(frozen=True)
class GMPO(RatioObjective):
    """Objective of GMPO: a loss of whole responses with a bound on every token. See [gmpo][].

    Args:
        clip: Bound on a token's log-ratio, at least 0.
    """

    clip: float = 0.4
    level: ClassVar[Literal["token", "response"]] = "response"
    paper: ClassVar[str] = "2507.20673"
    function = staticmethod(gmpo)
    check = staticmethod(check_gmpo)
