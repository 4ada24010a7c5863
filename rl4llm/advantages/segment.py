"""VinePPO: the change of the expected score over each step of a response, from values at the step boundaries."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn.functional import pad

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_device, check_given, check_ndim, check_token_tensors
from rl4llm.masked import keep, result_dtype
from rl4llm.segment_ids import consecutive_segments, segment_starts


@torch.no_grad()
def segment_advantages(
    boundary_values: Num[Tensor, "batch segment"],
    scores: Num[Tensor, " batch"],
    segment_ids: Int[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute the change of the expected score over each segment of a response and give it to all its tokens.

        Aᵢ = V̂(sᵢ₊₁) − V̂(sᵢ)        A of the last segment = r − V̂(s_last)        i = 0, 1, ... counts segments

    sᵢ is the prompt and the response before segment i. Nothing follows the end, so the advantages of a response's
    segments sum to r − V̂(s₀): this is GAE over segments with γ = 1 and λ = 0. Unbiased where the values are.

    Args:
        boundary_values: V̂(sᵢ), one column a segment; not read beyond a response's own segments.
        scores: r, one number per response; NaN where it could not be scored.
        segment_ids: Segment of each token, i in [0, S), read only where `response_mask` is True: 0 at the first
            trained token of a response, then never less and at most one more.
        response_mask: True at trained tokens.

    Returns:
        Advantages, without graph; 0 where `response_mask` is False or the score is NaN.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the segments are not numbered so.

    Example:
        >>> values, ids = torch.tensor([[0.5, 0.25]]), torch.tensor([[0, 0, 1]])
        >>> segment_advantages(values, torch.tensor([1.0]), ids, torch.tensor([[True, True, True]]))
        tensor([[-0.2500, -0.2500,  0.7500]])

    References:
        Kazemnejad et al., 2024 (VinePPO), as in the authors' code. arXiv:2410.01679.
    """
    _check(boundary_values, scores, segment_ids, response_mask)
    dtype, size = result_dtype(boundary_values, scores), boundary_values.shape[1]
    if size == 0:
        return torch.zeros(response_mask.shape, dtype=dtype, device=response_mask.device)
    last = segment_starts(segment_ids, response_mask).sum(-1, keepdim=True) - 1
    columns = torch.arange(size, device=last.device)
    values = boundary_values.to(torch.promote_types(dtype, torch.float32))
    after = torch.where(columns == last, scores[:, None].to(values.dtype), pad(values, (0, 1))[:, 1:])
    advantages = (after - values).gather(-1, keep(segment_ids, response_mask).long())
    return keep(advantages, response_mask & ~scores.isnan()[:, None]).to(dtype)


def _check(boundary_values: Tensor, scores: Tensor, segment_ids: Tensor, response_mask: Tensor) -> None:
    by = "segment_advantages"
    check_token_tensors(by, response_mask, segment_ids=segment_ids)
    check_given(by, scores=scores)
    check_ndim(by, 2, axes="batch segment", boundary_values=boundary_values)
    for name, tensor in {"boundary_values": boundary_values, "scores": scores}.items():
        if tensor.shape[:1] != response_mask.shape[:1] or (name == "scores" and tensor.ndim != 1):
            raise UsageError(
                f"{by}: {name} has shape {tuple(tensor.shape)}, response_mask {tuple(response_mask.shape)}; "
                "pass one row a response."
            )
    check_device(by, response_mask=response_mask, boundary_values=boundary_values, scores=scores)
    if not torch.equal(keep(segment_ids, response_mask).long(), consecutive_segments(segment_ids, response_mask)):
        raise UsageError(
            f"{by}: segment_ids must run 0, 1, ... over the trained tokens of each response; renumber them with "
            "consecutive_segments."
        )
    most = int(segment_starts(segment_ids, response_mask).sum(-1).max()) if len(response_mask) else 0
    if most > boundary_values.shape[1]:
        raise UsageError(
            f"{by}: boundary_values has {boundary_values.shape[1]} columns, but a response has {most} segments; "
            "pass one value a segment."
        )


@dataclass(frozen=True)
class SegmentMonteCarlo(AdvantageEstimator):
    """Advantage estimator of VinePPO, constant over each step. See [segment_advantages][].

    The value of a step's beginning is `values` at its first trained token; the score is the batch's `outcomes`,
    scores plus per-token shaping, all of it at the end. Responses that could not be scored get 0.
    """

    reads: ClassVar[tuple[str, ...]] = ("values", "segment_ids")
    paper: ClassVar[str] = "2410.01679"

    def update_scale(self, size: int) -> float:
        """Return 1, because the values come from other completions."""
        return 1.0

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """Return the advantages of every trained token, without value targets."""
        values, segment_ids = self.take(batch)
        mask = batch.scored_mask
        beginnings = (~segment_starts(segment_ids, mask)).byte().argsort(dim=-1, stable=True)
        ids = consecutive_segments(segment_ids, mask)
        return Advantages(segment_advantages(values.gather(-1, beginnings), batch.outcomes, ids, mask))
