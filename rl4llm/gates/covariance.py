"""Gates by the covariance of log-prob and advantage, which drives the change of the policy's entropy."""

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import (
    UsageError,
    check_at_least,
    check_fraction,
    check_interval,
    check_response_tensors,
    check_token_tensors,
)
from rl4llm.gates.base import Gate
from rl4llm.gates.share import drop_smallest, random_gate, whole_part
from rl4llm.masked import at_least_float32, keep, masked_mean
from rl4llm.randomness import seed_of
from rl4llm.ratios import token_ratio


def covariance(
    log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    """Compute what each token adds to the covariance of log-prob and advantage over the batch.

        covₜ = (Aₜ − Ā) (log π(yₜ) − mean log π)          means over the trained tokens of the batch that is passed

    Learning from a likely token with a high advantage reduces the entropy of the policy most. The means are over the
    batch that is passed; the paper's code takes them over a microbatch, at the log-probs of the moment, so that they
    depend on how the batch was cut.

    Args:
        log_probs: log π(yₜ), t in [0, T); a constant.
        advantages: Aₜ; a constant.
        response_mask: True at trained tokens; the two are read only there.

    Returns:
        covₜ in float32 or wider; 0 where `response_mask` is False. No gradient flows.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> covariance(torch.tensor([[-1.0, -3.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[True, True]]))
        tensor([[1., 1.]])

    References:
        Cui et al., 2025. arXiv:2505.22617 (as in the authors' code).
    """
    check_token_tensors("covariance", response_mask, log_probs=log_probs, advantages=advantages)
    factors = [at_least_float32(x.detach()) for x in (advantages, log_probs)]
    first, second = (keep(x - masked_mean(x, response_mask), response_mask) for x in factors)
    return first * second


def covariance_gate(
    log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    prompt_uids: Int[Tensor, " batch"],
    response_ids: Int[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    old_log_probs: Float[Tensor, "batch time"] | None = None,
    fraction: float = 0.0002,
    low: float = 1.0,
    high: float = 5.0,
    seed: int = 0,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
) -> Bool[Tensor, "batch time"]:
    """Drop a few random tokens among those whose covariance is high but not extreme.

        Cₜ = low < covₜ < high, not clipped     keepₜ = maskₜ ∧ t ∉ a random choice of k of the tokens with Cₜ
        k = max(1, ⌊fraction · n⌋), at most as many as there are; n counts all trained tokens

    Nothing is dropped where no token qualifies or fraction is 0. The choice follows from the seed and the content of
    the rows, not from their position, as in [random_gate][]. See [covariance][].

    Args:
        log_probs: log π(yₜ), t in [0, T).
        advantages: Aₜ.
        prompt_uids: Identity of the prompts.
        response_ids: Tokens. All but `prompt_uids` are read only where `response_mask` is True.
        response_mask: True at trained tokens.
        old_log_probs: log π_old(yₜ), against which the objective clips; None: no token counts as clipped.
        fraction: Share of the trained tokens to drop, in [0, 1).
        low: Covariance above which a token may be dropped.
        high: Covariance below which a token may be dropped.
        seed: Which of the many random choices.
        clip_low: Width below 1 of the objective's clip; see [clipped_tokens][].
        clip_high: Width above 1.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or a hyperparameter is out of range.

    Example:
        >>> log_probs, advantages = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[3.0, 0.0, 0.0]])
        >>> ids, mask = torch.tensor([[7, 8, 9]]), torch.ones(1, 3, dtype=torch.bool)
        >>> covariance_gate(log_probs, advantages, torch.tensor([5]), ids, mask, low=1.5)
        tensor([[False,  True,  True]])

    References:
        Cui et al., 2025 (Clip-Cov). arXiv:2505.22617 (as in the authors' code).
    """
    check_covariance_gate("covariance_gate", fraction, low, high, seed, clip_low, clip_high)
    check_token_tensors("covariance_gate", response_mask, response_ids=response_ids)
    check_response_tensors("covariance_gate", response_mask, prompt_uids=prompt_uids)
    covariances = covariance(log_probs, advantages, response_mask)
    candidates = response_mask & (covariances > low) & (covariances < high)
    if old_log_probs is not None:
        widths = {"clip_low": clip_low, "clip_high": clip_high}
        candidates &= ~clipped_tokens(log_probs, old_log_probs, advantages, response_mask, **widths)
    found, wanted = int(candidates.sum()), max(1, whole_part(fraction, int(response_mask.sum()))) if fraction else 0
    if wanted >= found:
        return response_mask & ~candidates
    contents = zip(prompt_uids.tolist(), response_ids.cpu(), response_mask.cpu(), strict=True)
    rows = torch.tensor([seed_of(uid, *ids[trained].tolist()) for uid, ids, trained in contents])
    spared = random_gate(rows, response_ids, candidates, fraction=wanted / found, seed=seed)
    return response_mask & (spared | ~candidates)


def clipped_tokens(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
) -> Bool[Tensor, "batch time"]:
    """Return the tokens whose gradient PPO's clip has removed.

        (Aₜ > 0 and rₜ > 1 + clip_high) or (Aₜ < 0 and rₜ < 1 − clip_low)          rₜ = π(yₜ) / π_old(yₜ)

    Args:
        log_probs: log π(yₜ), of the policy as it is now.
        old_log_probs: log π_old(yₜ).
        advantages: Aₜ.
        response_mask: True at trained tokens; the three are read only there.
        clip_low: Width below 1.
        clip_high: Width above 1.

    Returns:
        True where the token is clipped; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ or the mask is not boolean.

    Example:
        >>> log_probs, old = torch.tensor([[0.9, 0.9, 0.1]]).log(), torch.full((1, 3), 0.3).log()
        >>> clipped_tokens(log_probs, old, torch.tensor([[1.0, -1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
        tensor([[ True, False, False]])

    References:
        Cui et al., 2025 (Clip-Cov, as in the authors' code). arXiv:2505.22617.
    """
    check_token_tensors("clipped_tokens", response_mask, log_probs=log_probs, advantages=advantages)
    check_interval("clipped_tokens", 0.0, clip_low=clip_low, clip_high=clip_high)
    ratios = token_ratio(at_least_float32(log_probs.detach()), old_log_probs, response_mask)
    up, down = (advantages > 0) & (ratios > 1 + clip_high), (advantages < 0) & (ratios < 1 - clip_low)
    return response_mask & (up | down)


def check_covariance_gate(
    by: str, fraction: float, low: float, high: float, seed: int, clip_low: float, clip_high: float
) -> None:
    """Raise unless the hyperparameters are in their ranges."""
    check_interval(by, 0.0, clip_low=clip_low, clip_high=clip_high)
    check_fraction(by, fraction=fraction)
    check_at_least(by, 0, seed=seed)
    if not low < high:
        raise UsageError(f"{by}: low must be below high, got low={low} and high={high}.")


def high_covariance(
    log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
    *,
    fraction: float = 0.002,
) -> Bool[Tensor, "batch time"]:
    """Keep the few trained tokens with the largest covariance, where a divergence penalty saves most entropy.

        keepₜ = maskₜ ∧ covₜ among the k largest          k = max(1, ⌊fraction · n⌋) of n trained tokens

    Ties at the threshold are kept ([drop_smallest][]), so constant advantages keep everything. Unlike that of the other
    gates, `fraction` is the share that is *kept*, as the paper names it. See [covariance][].

    Args:
        log_probs: log π_old(yₜ), t in [0, T).
        advantages: Aₜ.
        response_mask: True at trained tokens; the two are read only there.
        fraction: Share of the trained tokens to keep, in [0, 1).

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes differ, the mask is not boolean, or the fraction is outside [0, 1).

    Example:
        >>> log_probs, advantages = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[3.0, 0.0, 0.0]])
        >>> high_covariance(log_probs, advantages, torch.ones(1, 3, dtype=torch.bool))
        tensor([[ True, False, False]])

    References:
        Cui et al., 2025 (KL-Cov). arXiv:2505.22617 (as in the authors' code).
    """
    check_fraction("high_covariance", fraction=fraction)
    covariances = covariance(log_probs, advantages, response_mask)
    count = max(1, int(response_mask.sum()))
    kept = max(1, whole_part(fraction, count))
    return drop_smallest(covariances, response_mask, (count - kept) / count, by="high_covariance")


@dataclass(frozen=True)
class CovarianceGate(Gate):
    """Gate that drops a few tokens of high covariance at random (Clip-Cov). See [covariance_gate][].

    Args:
        fraction: Share of the trained tokens to drop, in [0, 1); at least one token unless it is 0.
        low: Covariance above which a token may be dropped.
        high: Covariance below which a token may be dropped.
        seed: Which of the many random choices.
        clip_low: Width below 1 at which the objective has clipped a token already, so that it is no candidate.
        clip_high: Width above 1, likewise.
    """

    fraction: float = 0.0002
    low: float = 1.0
    high: float = 5.0
    seed: int = 0
    clip_low: float = 1.0
    clip_high: float = 1.0
    each_step: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    paper: ClassVar[str] = "2505.22617"

    def __post_init__(self) -> None:
        check_covariance_gate("CovarianceGate", **{field.name: getattr(self, field.name) for field in fields(self)})

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `covariance_gate` to the policy's present log-probs and `batch.advantages`."""
        (advantages,) = self.take(batch)
        return covariance_gate(
            present_log_probs(batch),
            advantages,
            batch.prompt_uids,
            batch.response_ids,
            batch.response_mask,
            old_log_probs=batch.old_log_probs,
            fraction=self.fraction,
            low=self.low,
            high=self.high,
            seed=self.seed,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )


@dataclass(frozen=True)
class HighCovariance(Gate):
    """Gate that keeps the tokens of largest covariance: the `where` of KL-Cov's penalty. See [high_covariance][].

    Args:
        fraction: Share of the trained tokens to *keep*, in [0, 1); at least one token.
    """

    fraction: float = 0.002
    each_step: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    paper: ClassVar[str] = "2505.22617"

    def __post_init__(self) -> None:
        check_fraction("HighCovariance", fraction=self.fraction)

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `high_covariance` to the policy's present log-probs and `batch.advantages`."""
        (advantages,) = self.take(batch)
        return high_covariance(present_log_probs(batch), advantages, batch.response_mask, fraction=self.fraction)


def present_log_probs(batch: RolloutBatch) -> Float[Tensor, "batch time"]:
    """Give log π(yₜ) at the optimizer step; before the first, that is log π_old(yₜ)."""
    return batch.old_log_probs if batch.present_log_probs is None else batch.present_log_probs
