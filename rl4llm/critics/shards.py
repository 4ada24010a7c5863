"""Shards: which critic learns from which response. Critics differ only because they learn from different responses."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_group_tensors, check_integers, check_ndim
from rl4llm.groups import dense_group_ids, group_count, position_in_group
from rl4llm.randomness import generator

EVERY_CRITIC = -1


def group_shards(group_ids: Int[Tensor, " batch"], num_critics: int) -> Int[Tensor, " batch"]:
    """Divide the responses to every prompt draw among the critics: all learn from every prompt, none share a response.

        critic(j-th of the n responses of group g) = (⌊j·M / n⌋ + g) mod M

    j counts in the order of the rows, g in the order of the groups' first appearance; a group's labels do not
    matter. Within a group the parts differ by at most one response, and the shift by g hands the larger parts
    around: over groups of equal size the critics' totals differ by at most one too.

    Args:
        group_ids: Which prompt draw a response answers; any order, ragged.
        num_critics: M, at least 1 and at most the size of the smallest group.

    Returns:
        The critic, in [0, M), that learns from each response.

    Raises:
        UsageError: If a group has fewer responses than there are critics, `num_critics` is below 1, or the ids are
            not an integer vector.

    Example:
        >>> group_shards(torch.tensor([7, 7, 7, 3, 3, 3]), 2)
        tensor([0, 0, 1, 1, 1, 0])

    References:
        Liu et al., 2025. arXiv:2510.01656, section on the ensemble (group-level, non-overlapping data division).
    """
    _check("group_shards", group_ids, num_critics)
    size = group_count(group_ids, torch.ones_like(group_ids, dtype=torch.bool)).long()
    if (size < num_critics).any():
        raise UsageError(
            f"group_shards: more critics than responses per prompt: {num_critics} critics, but a prompt has "
            f"{int(size.min())} responses; use shards='prompt' or fewer critics."
        )
    part = position_in_group(group_ids) * num_critics // size
    return (part + dense_group_ids(group_ids)[0]) % num_critics


def prompt_shards(group_ids: Int[Tensor, " batch"], num_critics: int) -> Int[Tensor, " batch"]:
    """Give whole prompt draws to one critic each, in turn; for groups smaller than the ensemble.

        critic(group g) = g mod M

    g counts in the order of first appearance, so that labels do not matter. The critics see different prompts, which
    lets them drift apart where [group_shards][] does not.

    Args:
        group_ids: Which prompt draw a response answers; any order, ragged.
        num_critics: M, at least 1.

    Returns:
        The critic, in [0, M), that learns from each response.

    Raises:
        UsageError: If `num_critics` is below 1 or the ids are not an integer vector.

    Example:
        >>> prompt_shards(torch.tensor([7, 3, 7, 5]), 2)
        tensor([0, 1, 0, 0])

    References:
        Liu et al., 2025. arXiv:2510.01656 argues against it; the control for [group_shards][].
    """
    _check("prompt_shards", group_ids, num_critics)
    return dense_group_ids(group_ids)[0] % num_critics


def shared_shards(group_ids: Int[Tensor, " batch"], num_critics: int) -> Int[Tensor, " batch"]:
    """Let every critic learn from every response: the naive ensemble.

        critic(i) = −1, which stands for all of them

    Args:
        group_ids: Which prompt draw a response answers.
        num_critics: M, at least 1; checked, and otherwise unused.

    Returns:
        −1 for every response.

    Raises:
        UsageError: If `num_critics` is below 1 or the ids are not an integer vector.

    Example:
        >>> shared_shards(torch.tensor([7, 3]), 2)
        tensor([-1, -1])

    References:
        Liu et al., 2025. arXiv:2510.01656, fig. 3 (the ensemble on shared data).
    """
    _check("shared_shards", group_ids, num_critics)
    return torch.full_like(group_ids, EVERY_CRITIC, dtype=torch.long)


def random_shards(group_ids: Int[Tensor, " batch"], num_critics: int) -> Int[Tensor, " batch"]:
    """Divide the responses of the whole batch among the critics at random, regardless of their prompts.

        critic(i) = π(i) mod M          π a fixed random permutation of the rows

    The critics share no response, and their totals differ by at most one, but a prompt's responses may all go to one
    critic. π depends on the number of rows alone; prompts stand in random order, so that it need not be redrawn.

    Args:
        group_ids: Which prompt draw a response answers; only their number is read.
        num_critics: M, at least 1.

    Returns:
        The critic, in [0, M), that learns from each response.

    Raises:
        UsageError: If `num_critics` is below 1 or the ids are not an integer vector.

    Example:
        >>> random_shards(torch.tensor([7, 7, 7, 7]), 2).sort().values
        tensor([0, 0, 1, 1])

    References:
        A control for [group_shards][]; no paper.
    """
    _check("random_shards", group_ids, num_critics)
    order = torch.randperm(len(group_ids), generator=generator("random_shards", len(group_ids)))
    return (order % num_critics).to(group_ids.device)


def learns_from(shards: Int[Tensor, " batch"], critic: int) -> Bool[Tensor, " batch"]:
    """Return True for the responses that a critic learns from.

        learns(i) = shard(i) ∈ {critic, −1}

    Args:
        shards: What one of the sharding functions gave.
        critic: Index of the critic, from 0.

    Returns:
        True at the responses that it learns from.

    Raises:
        UsageError: If `critic` is negative or `shards` is not a vector.

    Example:
        >>> learns_from(torch.tensor([0, 1, -1]), 1)
        tensor([False,  True,  True])
    """
    check_at_least("learns_from", 0, critic=critic)
    check_ndim("learns_from", 1, axes="batch", shards=shards)
    check_integers("learns_from", shards=shards)
    return (shards == critic) | (shards == EVERY_CRITIC)


def _check(by: str, group_ids: Tensor, num_critics: int) -> None:
    check_group_tensors(by, group_ids)
    check_at_least(by, 1, num_critics=num_critics)
