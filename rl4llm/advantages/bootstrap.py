"""Bootstrapping of truncated responses: the critics' value at the cut is added to the last reward."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import place_scores
from rl4llm.checks import check_interval, check_response_tensors, check_token_tensors
from rl4llm.masked import at_least_float32, keep


@torch.no_grad()
def bootstrap_truncated(
    rewards: Float[Tensor, "batch time"],
    end_values: Float[Tensor, " batch"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    gamma: float = 1.0,
) -> Float[Tensor, "batch time"]:
    """Add the value of the state at the cut to the last token reward of each truncated response.

        r'ₜ = rₜ + γ V(s_T)   at the last trained token t = T − 1,     r'ₜ = rₜ elsewhere

    Then δ of the last token is r + γ V(s_T) − V(s_{T−1}), and every return ends in γ-discounted V(s_T).

    Args:
        rewards: rₜ, t in [0, T). Read only where `response_mask` is True.
        end_values: V(s_T), the value after the last token; 0 for responses that ended by themselves.
        response_mask: True at trained tokens.
        gamma: γ in [0, 1].

    Returns:
        The rewards in their dtype, without graph; 0 where `response_mask` is False. A response without trained tokens
        gets none.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or γ is outside [0, 1].

    Example:
        >>> mask = torch.tensor([[True, True, False], [True, True, True]])
        >>> bootstrap_truncated(torch.zeros(2, 3), torch.tensor([0.5, 0.0]), mask)
        tensor([[0.0000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])

    References:
        Pardo et al., 2018: time limits in reinforcement learning. arXiv:1712.00378.
    """
    check_interval("bootstrap_truncated", 0.0, 1.0, gamma=gamma)
    check_token_tensors("bootstrap_truncated", response_mask, rewards=rewards)
    check_response_tensors("bootstrap_truncated", response_mask, end_values=end_values)
    ends = place_scores(gamma * at_least_float32(end_values), response_mask)
    return (keep(at_least_float32(rewards), response_mask) + ends).to(rewards.dtype)
