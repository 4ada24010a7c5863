"""From tokens to responses: the building blocks of the objectives with one loss per response."""

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.checks import check_response_tensors, check_token_tensors
from rl4llm.masked import at_least_float32, keep, masked_sum
from rl4llm.ratios import token_log_ratio


def response_log_ratio(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, " batch"]:
    """Sum the log-ratio between the policy and another one over the trained tokens of each response.

        ℓ(y) = Σₜ log π_θ(yₜ) − log π_ref(yₜ)

    Gradient flows to `log_probs` only. Arguments and errors as in [token_log_ratio][]; in float32 or wider, 0 for a
    response without trained tokens.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> response_log_ratio(torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[-1.5, -2.0, 0.0]]), mask)
        tensor([0.5000])
    """
    check_token_tensors("response_log_ratio", response_mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    log_ratios = token_log_ratio(at_least_float32(log_probs), ref_log_probs, response_mask)
    return masked_sum(log_ratios, response_mask, dim=-1)


def at_first_token(
    x: Float[Tensor, "batch time"], response_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, " batch"]:
    """Return the entry at the first trained token of each response, where the state is the prompt; 0 if there is none.

    Example:
        >>> import torch
        >>> at_first_token(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[False, True, True]]))
        tensor([2.])
    """
    check_token_tensors("at_first_token", response_mask, x=x)
    first = response_mask & (response_mask.cumsum(-1) == 1)
    return keep(x, first).sum(-1)


def scored_responses(
    scores: Float[Tensor, " batch"], response_mask: Bool[Tensor, "batch time"]
) -> Bool[Tensor, " batch"]:
    """Return True for the responses that could be scored and have a trained token.

    Example:
        >>> import torch
        >>> scored_responses(torch.tensor([1.0, float("nan")]), torch.tensor([[True], [True]]))
        tensor([ True, False])
    """
    check_response_tensors("scored_responses", response_mask, scores=scores)
    return response_mask.any(-1) & ~scores.isnan()
