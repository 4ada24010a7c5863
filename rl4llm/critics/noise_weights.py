"""EasyPPO's value loss: prompts with an uncertain outcome weigh less, since their returns are noisier targets."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_group_tensors, check_interval
from rl4llm.critics.losses import SquaredValueLoss, ValueLoss
from rl4llm.groups import centred_in_group, group_count, group_mean, position_in_group
from rl4llm.masked import at_least_float32, result_dtype
from rl4llm.parts import Composite


@torch.no_grad()
def noise_weights(
    scores: Num[Tensor, " batch"],
    group_ids: Int[Tensor, " batch"],
    *,
    floor: float | None = None,
    power: float = 0.5,
) -> Float[Tensor, " batch"]:
    """Compute weights inverse to the noise of a prompt's scores, with mean 1 over the prompts.

        w(x) = u(x) / mean over x' of u(x')        u(x) = 1 / max(σ²(x)^power, floor)

    σ²(x) is the population variance of the scores of all responses to x. With Monte Carlo targets the squared gradient
    of a value loss is ‖∇V‖² ((V − E r)² + σ²): without weights, prompts that are solved now and then drown those whose
    outcome is known. The floor keeps unanimous prompts from taking everything: by default it is Δ/(2√n) at
    `power=0.5`, and (Δ/(2√n))^(2·power) in general, with n the scored responses to the prompt and Δ the range of the
    batch's scores. A binary score that is not unanimous has σ ≥ Δ√(n − 1)/n, which is above the floor, so the default
    only acts on unanimous prompts; they weigh √n times as much as an even one.

    The weights belong to the rollout batch. Compute them there, before it is cut into shards and minibatches: a part of
    a group has another variance.

    Args:
        scores: One number per response, with those of truncated responses; NaN where it could not be scored.
        group_ids: Which prompt draw a response answers; any order, ragged. Each draw counts as a prompt.
        floor: Least σ^(2·power), positive, in units of the score to that power; None: as above.
        power: Which power of the variance divides, at least 0: 0.5 the standard deviation, 0 none.

    Returns:
        One weight per response, the same within a group, without graph; 0 where the score is NaN. All are 1 where all
        scores of the batch are equal, and where each prompt has one.

    Raises:
        UsageError: If shapes differ, `group_ids` does not hold integers, or a hyperparameter is out of range.

    Example:
        >>> scores, group_ids = torch.tensor([0.0, 1.0, 0.5, 0.5]), torch.tensor([0, 0, 1, 1])
        >>> noise_weights(scores, group_ids, power=1.0, floor=0.01)  # 1/0.25 and 1/0.01, divided by their mean 52
        tensor([0.0769, 0.0769, 1.9231, 1.9231])

    References:
        Zhou et al., 2026 (EasyPPO). arXiv:2609.36802, eq. 7.
    """
    check_group_tensors("noise_weights", group_ids, scores=scores)
    check_noise("noise_weights", floor, power)
    scored = ~scores.isnan()
    x, ids = at_least_float32(scores)[scored], group_ids[scored]
    weights = at_least_float32(scores).new_zeros(scores.shape)
    if len(x):
        inverse = _inverse_noise(x, ids, floor, power)
        weights[scored] = inverse / inverse[position_in_group(ids) == 0].mean()
    return weights.to(result_dtype(scores))


def _inverse_noise(x: Tensor, ids: Tensor, floor: float | None, power: float) -> Tensor:
    """U of every row; 1 where neither the variance nor the floor is above 0."""
    everyone = torch.ones_like(ids, dtype=torch.bool)
    variance = group_mean(centred_in_group(x, ids, everyone) ** 2, ids, everyone)
    if floor is None:
        least = ((x.max() - x.min()) ** 2 / (4 * group_count(ids, everyone).to(x.dtype))) ** power
    else:
        least = torch.full_like(variance, floor)
    noise = torch.maximum(variance**power, least)
    return torch.where(noise > 0, 1 / noise, torch.ones_like(noise))


def check_noise(by: str, floor: float | None, power: float) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, inf, "()", floor=floor)
    check_interval(by, 0.0, inf, "[)", power=power)


@dataclass(frozen=True)
class NoiseNormalizedValueLoss(Composite, ValueLoss):  # type: ignore[override]
    """Value loss that weights prompts inversely to the noise of their scores. See [noise_weights][].

    The weights are computed from the `outcomes` of the whole rollout batch, before it is cut; a critic that learns from
    a shard weighs its responses by all of their siblings.

    Args:
        floor: Least σ^(2·power), positive; None: Δ/(2√n) to the power 2·power, Δ the range of the batch's scores.
        power: Which power of the variance divides, at least 0: 0.5 the standard deviation, 0 none.
        loss: What is weighted.
    """

    floor: float | None = None
    power: float = 0.5
    loss: ValueLoss = SquaredValueLoss()  # noqa: RUF009
    own_reads: ClassVar[tuple[str, ...]] = ("value_weights",)
    paper: ClassVar[str] = "2609.36802"

    def __post_init__(self) -> None:
        check_noise("NoiseNormalizedValueLoss", self.floor, self.power)

    def prepare(self, batch: RolloutBatch) -> RolloutBatch:
        """Return the batch with `value_weights`."""
        batch = self.loss.prepare(batch)
        weights = noise_weights(batch.outcomes, batch.group_ids, floor=self.floor, power=self.power)
        return batch.replace(value_weights=weights)

    def __call__(self, values: Float[Tensor, "batch time"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return the inner loss times `batch.value_weights`."""
        (weights,) = batch.require(*self.own_reads, by="NoiseNormalizedValueLoss")
        losses = self.loss(values, batch)
        return (weights.detach()[:, None] * losses).to(losses.dtype)
