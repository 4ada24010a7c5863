"""Diagnostics of a policy update, as pure functions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_token_tensors
from rl4llm.kl import kl_k3
from rl4llm.masked import at_least_float32


def silenced_tokens(
    loss: Float[Tensor, "..."],
    log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Bool[Tensor, "batch time"]:
    """Tokens that have an advantage and get no gradient from the objective: the clipped ones, whatever the objective.

        silenced ⟺ Aₜ ≠ 0 and ∂ Σ loss / ∂ log π(token) = 0

    Args:
        loss: The objective's losses, with the graph to `log_probs`.
        log_probs: Those of the forward pass; any graph beyond them is left alone.
        advantages: As the objective uses them.
        response_mask: True at trained tokens.

    Returns:
        True where a token is silenced; False outside the mask.

    Example:
        >>> log_probs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
        >>> loss = -torch.minimum((log_probs + 1.0 + torch.tensor([[0.0, 0.5]])).exp(), torch.tensor(1.2))
        >>> silenced_tokens(loss, log_probs, torch.ones(1, 2), torch.tensor([[True, True]]))
        tensor([[False,  True]])

    References:
        A diagnostic of this library.
    """
    check_token_tensors("silenced_tokens", response_mask, log_probs=log_probs, advantages=advantages)
    if not loss.requires_grad:
        return response_mask & (advantages != 0)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs, retain_graph=True)
    return response_mask & (advantages != 0) & (gradient == 0)


def approximate_kl(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """How far the policy has moved on its own samples, per token: k3 of KL(π_old ‖ π).

        d = log π − log π_old        k3 = eᵈ − 1 − d ≥ 0

    Args:
        log_probs: Under the policy now.
        old_log_probs: Under the policy that the update began with.
        response_mask: True at trained tokens; nothing else is read.

    Returns:
        Float32 or wider, no graph; 0 where `response_mask` is False.

    Example:
        >>> approximate_kl(torch.tensor([[-1.0]]), torch.tensor([[-1.0]]), torch.tensor([[True]]))
        tensor([[0.]])

    References:
        Schulman, 2020. http://joschu.net/blog/kl-approx.html.
    """
    check_token_tensors("approximate_kl", response_mask, log_probs=log_probs, old_log_probs=old_log_probs)
    return kl_k3(at_least_float32(old_log_probs.detach()), log_probs.detach(), response_mask)
