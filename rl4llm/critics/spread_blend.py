"""`SpreadBlend`: critics blended with the group mean, token by token, by how much the critics disagree."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_group_tensors, check_interval, check_response_tensors, check_token_tensors
from rl4llm.critic_values import critic_std
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.siblings import check_siblings, leave_one_out_mean
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec, with_values
from rl4llm.groups import centred_in_group, group_count, group_sum
from rl4llm.masked import at_least_float32, keep, masked_mean, spread

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy

NOISES = (0.0, *(10.0 ** (quarter / 4) for quarter in range(-16, 17)), inf)  # candidates of c


@torch.no_grad()
def spread_trust(
    prior_variances: Float[Tensor, "batch time"],
    spreads: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    noise: float,
) -> Float[Tensor, "batch time"]:
    """Compute how far a baseline should move from the group mean to the critics, given the critics' disagreement.

        ρₜ = pₜ / (pₜ + c σₜ²)          b = (1 − ρ)B + ρV̄

    This is the gain of a Kalman filter: p is the variance of the value around the group mean, and c σ² that of the
    critics' error. c = 0 trusts the critics everywhere, c = ∞ nowhere.

    Args:
        prior_variances: pₜ ≥ 0, t in [0, T). Read only where `response_mask` is True.
        spreads: σₜ, the standard deviation over the critics. Read only where `response_mask` is True.
        response_mask: True at trained tokens.
        noise: c, at least 0, possibly ∞.

    Returns:
        ρ in [0, 1], in float32 or wider, without graph; 1 where c σ² is 0 and c finite; 0 where `response_mask` is
        False.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or c is below 0 or NaN.

    Example:
        >>> one, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
        >>> spread_trust(one, torch.tensor([[0.0, 1.0]]), mask, noise=3.0)
        tensor([[1.0000, 0.2500]])

    References:
        Ours: the coefficient of TETHER (arXiv:2608.16739) per token, with the variance of the ensemble.
    """
    check_interval("spread_trust", 0.0, inf, noise=noise)
    check_token_tensors("spread_trust", response_mask, prior_variances=prior_variances, spreads=spreads)
    prior, width = (keep(at_least_float32(x), response_mask) for x in (prior_variances, spreads))
    if noise == inf:
        return torch.zeros_like(width)
    error = noise * width.square()
    trust = torch.where(error > 0, prior / (prior + error).clamp(min=torch.finfo(error.dtype).tiny), 1.0)
    return keep(trust, response_mask)


@torch.no_grad()
def prior_variances(
    scores: Num[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    values: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Estimate the variance of the true value around the mean of a prompt's other responses.

        p = s² + h²          s² = Var(R of the others)/(n − 2)          h² = mean over trained tokens of (V̄ₜ − V̄₀)²

    s² is the uncertainty of that mean, from the scores of the others alone, so that no response influences its own p;
    h² is how far values move within a response, over the batch. With fewer than two others s² is 0; with two it is
    their variance.

    Args:
        scores: R, one number per response; NaN if it could not be scored.
        group_ids: Which prompt draw a response answers.
        values: V̄(sₜ), t in [0, T). Read only where `response_mask` is True.
        response_mask: True at trained tokens.

    Returns:
        p per token, in float32 or wider, without graph; 0 where `response_mask` is False.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> mask = torch.ones(3, 1, dtype=torch.bool)
        >>> prior_variances(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4, 4, 4]), torch.zeros(3, 1), mask)
        tensor([[0.0000],
                [0.2500],
                [0.2500]])

    References:
        Ours.
    """
    check_token_tensors("prior_variances", response_mask, values=values)
    check_group_tensors("prior_variances", group_ids, scores=scores)
    check_response_tensors("prior_variances", response_mask, scores=scores)
    scored = ~scores.isnan()
    x, kept = at_least_float32(scores), keep(at_least_float32(values), response_mask)
    others = (group_count(group_ids, scored) - scored.long()).to(x.dtype)
    centred = centred_in_group(x, group_ids, scored)
    squares, some = group_sum(centred.square(), group_ids, scored) - centred.square(), others.clamp(min=1)
    variance = (squares / some - (centred / some).square()).clamp(min=0) / (others - 1).clamp(min=1)
    first = kept.gather(-1, response_mask.byte().argmax(-1, keepdim=True)) if kept.shape[-1] else kept
    moved = masked_mean((kept - first).square(), response_mask)
    return keep((variance[:, None] + moved).expand(kept.shape), response_mask)


@dataclass(frozen=True)
class SpreadBlend(WrappingSpec):
    """Critics blended with the mean of a prompt's other responses, token by token, by the critics' disagreement.

        bₜ = (1 − ρₜ)B + ρₜV̄(sₜ)          ρₜ = p / (p + c σₜ²)          see [spread_trust][] and [prior_variances][]

    c starts at ∞ (RLOO). After each batch it becomes the candidate that minimizes Σ (R − b)² over the batch's trained
    tokens, the largest if several do, and the next batch uses it, so no response influences its own baseline; nothing
    is fitted while the critics warm up. Use it with `GAE(lam=1.0)`, as [Tether][rl4llm.critics.tether.Tether], whose
    one ρ for all tokens is the control.

    Args:
        critics: The critics that are blended; several, because one has no spread.
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009
    sees_scores: ClassVar[bool] = True
    paper: ClassVar[str] = ""

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if a response has no siblings, there is one critic, or the wrapped critics cannot work."""
        check_siblings("SpreadBlend", responses_per_prompt)
        if getattr(self.critics, "size", 1) < 2:
            raise UsageError(
                f"SpreadBlend: critics={type(self.critics).__name__} has one critic and so no spread; use MiniCritics "
                "with --model.critics.critics.size=2 or more, or --model.critics=Tether."
            )
        super().check(source, responses_per_prompt)

    def build(self, source: "ModelSource", policy: "Policy") -> "SpreadBlendSource":
        """Return the critics with c = ∞."""
        return SpreadBlendSource(self.critics.build(source, policy))


class SpreadBlendSource(WrappingSource):
    """Values between the leave-one-out mean and those of another source.

    Args:
        inner: The other source; it must fill in `critic_values`.
    """

    reads_scores: ClassVar[bool] = True

    def __init__(self, inner: ValueSource) -> None:
        super().__init__(inner)
        self.noise = inf

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with bₜ as `values`, by the c of the batch before."""
        judged = self.inner.values(batch, context)
        mask = judged.response_mask
        trust = spread_trust(*_uncertainty(judged), mask, noise=self.noise)
        context.log("blend", masked_mean(trust, mask).reshape(1))
        return with_values(judged, _blended(*_ends(judged), trust))

    def observe(self, judged: RolloutBatch, context: ValueContext) -> None:
        """Fit c anew, unless the critics are warming up."""
        mask = judged.scored_mask
        if context.warming_up or not mask.any():
            return
        target, ends, uncertainty = spread(at_least_float32(judged.outcomes), mask), _ends(judged), _uncertainty(judged)
        blends = (_blended(*ends, spread_trust(*uncertainty, judged.response_mask, noise=noise)) for noise in NOISES)
        errors = [masked_mean((target - blend).square(), mask) for blend in blends]
        best = torch.stack(errors).amin()
        self.noise = max(noise for noise, error in zip(NOISES, errors, strict=True) if error <= best)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: c."""
        return {"noise": torch.tensor(self.noise, dtype=torch.float64)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the c of a checkpoint."""
        self.noise = state["noise"].item()


def _uncertainty(judged: RolloutBatch) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Return p, the variance of the value around the group mean, and σ, the critics' spread."""
    values, critic_values = judged.require("values", "critic_values", by="SpreadBlend")
    prior = prior_variances(judged.outcomes, judged.group_ids, values, judged.response_mask)
    return prior, critic_std(critic_values)


def _ends(judged: RolloutBatch) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Return the baselines that no trust and full trust give: B and V̄."""
    (values,) = judged.require("values", by="SpreadBlend")
    mean = leave_one_out_mean(judged.outcomes, judged.group_ids)
    return spread(mean.to(values.dtype), judged.response_mask), keep(values, judged.response_mask)


def _blended(mean: Tensor, values: Tensor, trust: Tensor) -> Float[Tensor, "batch time"]:
    return torch.lerp(mean, values, trust.to(values.dtype))
