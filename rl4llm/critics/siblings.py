"""The mean score of the other responses to a prompt, a baseline without critics."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.checks import UsageError, check_group_tensors
from rl4llm.groups import centred_in_group, group_count, group_mean
from rl4llm.masked import at_least_float32, result_dtype


@torch.no_grad()
def leave_one_out_mean(scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Average the scores of the other responses of a group, or of the batch if the group has no others.

        Bᵢ = 1/(n−1) Σ_{j≠i} rⱼ          rᵢ − Bᵢ is the advantage of [leave_one_out][]

    It does not depend on response i, so it may be subtracted from its score. A score of NaN (could not be scored)
    enters no mean; the response itself still gets that of its siblings.

    Args:
        scores: rᵢ, one number per response; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged.

    Returns:
        One number per response, without graph. A response that is the only scored one of the batch gets its own score,
        so that it has no advantage; all get 0 where none is scored.

    Raises:
        UsageError: If shapes differ or `group_ids` does not hold integers.

    Example:
        >>> leave_one_out_mean(torch.tensor([1.0, 0.0, 0.5, 7.0]), torch.tensor([3, 3, 3, 8]))
        tensor([0.2500, 0.7500, 0.5000, 0.5000])

    References:
        Ahmadian et al., 2024 (RLOO). arXiv:2402.14740.
    """
    check_group_tensors("leave_one_out_mean", group_ids, scores=scores)
    scored = ~scores.isnan()
    siblings = group_count(group_ids, scored) - scored.float() > 0
    near = _mean_of_others(scores, group_ids, scored)
    far = _mean_of_others(scores, torch.zeros_like(group_ids), scored)
    return torch.where(siblings, near, far).to(result_dtype(scores))


def _mean_of_others(
    scores: Num[Tensor, " batch"], group_ids: Int[Tensor, " batch"], scored: Bool[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Each scored row without itself, by way of its advantage, which is exactly 0 where all are equal."""
    x = at_least_float32(scores)
    count = group_count(group_ids, scored).to(x.dtype)
    advantages = centred_in_group(x, group_ids, scored) * count / (count - 1).clamp(min=1)
    return torch.where(scored, x - advantages, group_mean(x, group_ids, scored))


def check_siblings(by: str, responses_per_prompt: int) -> None:
    """Raise if a prompt has a single response, so that there is no other one to compare with."""
    if responses_per_prompt < 2:
        raise UsageError(
            f"{by}: responses_per_prompt={responses_per_prompt} leaves no other response to the same prompt; set "
            "--model.responses_per_prompt=2 or more, or --model.critics=MiniCritics."
        )
