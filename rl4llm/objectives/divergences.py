"""How far the policy has moved at one state, seen through the sampled token or through the likeliest tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl4llm.checks import check_device, check_same_shape
from rl4llm.masked import at_least_float32
from rl4llm.roles import check_roles

_SMALLEST_MASS = 1e-12
_CELLS = "pass one mass per cell"


def binary_tv(new: Float[Tensor, "*axes"], old: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """|π − μ| from log-probs: total variation between "this token" and "any other".

    Args:
        new: log π of the token.
        old: log μ of the token.

    Returns:
        A distance in [0, 1], with the shape of the two.

    Example:
        >>> binary_tv(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
        tensor([0.2500])
    """
    check_same_shape("binary_tv", new=new, old=old)
    return (new.exp() - old.exp()).abs()


def binary_kl(new: Float[Tensor, "*axes"], old: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """KL(μ ‖ π) between "this token" and "any other", from log-probs; finite where a probability rounds to 1.

    Args:
        new: log π of the token.
        old: log μ of the token.

    Returns:
        A divergence ≥ 0, with the shape of the two.

    Example:
        >>> binary_kl(torch.tensor([0.5]).log(), torch.tensor([0.5]).log())
        tensor([0.])
    """
    check_same_shape("binary_kl", new=new, old=old)
    tiny = torch.finfo(new.dtype).eps
    log_other_new, log_other_old = ((-x.expm1()).clamp(min=tiny).log() for x in (new, old))
    other = -old.expm1()
    return old.exp() * (old - new) + other * (log_other_old - log_other_new)


def top_masses(
    log_probs: Float[Tensor, "*axes"],
    top_log_probs: Float[Tensor, "*axes top"],
    ids: Int[Tensor, "*axes"],
    top_ids: Int[Tensor, "*axes top"],
) -> Float[Tensor, "*axes cells"]:
    """Return the distribution over listed tokens, the sampled token and all others: K + 2 masses of at least 1e-12.

    A listed token that is the sampled one is counted once, with the log-prob of the sampled token; its cell in the list
    then has the minimal mass.

    Args:
        log_probs: log p of the sampled token.
        top_log_probs: log p of the K listed tokens.
        ids: The sampled token.
        top_ids: The K listed tokens, all different.

    Returns:
        Masses in float32 or wider, without graph: sampled, listed, other.

    Example:
        >>> half, listed = torch.tensor([0.5]).log(), torch.tensor([[0.5, 0.25]]).log()
        >>> top_masses(half, listed, torch.tensor([7]), torch.tensor([[7, 3]]))
        tensor([[5.0000e-01, 1.0000e-12, 2.5000e-01, 2.5000e-01]])
    """
    check_same_shape("top_masses", log_probs=log_probs, ids=ids, remedy="pass one entry per position")
    check_same_shape(
        "top_masses", top_log_probs=top_log_probs, top_ids=top_ids, remedy="pass one entry per listed token"
    )
    check_device("top_masses", log_probs=log_probs, top_log_probs=top_log_probs)
    check_roles("top_masses", log_probs=log_probs, top_log_probs=top_log_probs, ids=ids, top_ids=top_ids)
    sampled = at_least_float32(log_probs.detach()).exp()[..., None]
    listed = torch.where(top_ids == ids[..., None], 0.0, at_least_float32(top_log_probs.detach()).exp())
    other = 1.0 - sampled - listed.sum(-1, keepdim=True)
    return torch.cat([sampled, listed, other], -1).clamp(min=_SMALLEST_MASS)


def mass_tv(new: Float[Tensor, "*axes cells"], old: Float[Tensor, "*axes cells"]) -> Float[Tensor, "*axes"]:
    """Compute ½ Σ |p − q| over the last axis: the total variation between two distributions given as masses.

    Example:
        >>> mass_tv(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.2500)
    """
    check_same_shape("mass_tv", new=new, old=old, remedy=_CELLS)
    return (new - old).abs().sum(-1) / 2


def mass_kl(new: Float[Tensor, "*axes cells"], old: Float[Tensor, "*axes cells"]) -> Float[Tensor, "*axes"]:
    """Compute Σ q log(q/p) over the last axis: KL(old ‖ new) of two distributions given as positive masses.

    Example:
        >>> mass_kl(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
        tensor(0.)
    """
    check_same_shape("mass_kl", new=new, old=old, remedy=_CELLS)
    return (old * (old.log() - new.log())).sum(-1)
