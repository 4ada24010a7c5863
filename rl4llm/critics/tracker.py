"""SPO's tracker: the success rate of every prompt as a Beta distribution that forgets as the policy moves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least, check_choice, check_given, check_interval, check_same_shape
from rl4llm.critics.base import Survey, ValueContext, ValueSource, ValueSpec
from rl4llm.critics.last_responses import LastResponses
from rl4llm.critics.prompts import check_uids, find
from rl4llm.groups import position_in_group
from rl4llm.masked import at_least_float32, masked_mean, result_dtype, spread

Numbers = Float[Tensor, "*prompt"] | float
_PRIOR = 0.5  # α and β of a prompt that was never seen


@torch.no_grad()
def beta_tracker_update(
    alpha: Numbers,
    beta: Numbers,
    score: Numbers,
    divergence: Numbers,
    *,
    half_life: float = 0.06,
    rho_min: float = 0.875,
    rho_max: float = 0.96,
) -> tuple[Numbers, Numbers]:
    """Update the counts of success and failure by one observation and discount the older ones.

        ρ = clip(2^(−D / half_life), ρ_min, ρ_max)        α' = ρα + r        β' = ρβ + 1 − r

    With v̂ = α/(α + β) this is the moving average v̂' = v̂ + (r − v̂)/(ρ(α + β) + 1). At a constant ρ the counts
    α + β tend to 1/(1 − ρ) observations; ρ = 1 gives the running mean with a prior. The half-life is that of the
    authors' code; the paper names none.

    Args:
        alpha: α ≥ 0 from before the observation; α + β > 0.
        beta: β ≥ 0 from before the observation.
        score: r in [0, 1]; NaN where it could not be scored, which leaves α and β as they are.
        divergence: D ≥ 0, how far the policy has moved since the observation before. Not read where r is NaN.
        half_life: D at which an older observation counts half.
        rho_min: Least share kept of the older observations.
        rho_max: Largest share kept of them.

    Returns:
        α' and β', without graph; numbers where all four are numbers.

    Raises:
        UsageError: If shapes differ or a number is outside its domain.

    Example:
        >>> beta_tracker_update(4.0, 4.0, 1.0, 0.0)
        (4.84, 3.84)

    References:
        Xu and Ding, 2025 (SPO). arXiv:2509.13232, eq. 5.
    """
    by, given = "beta_tracker_update", {"alpha": alpha, "beta": beta, "score": score, "divergence": divergence}
    check_interval(by, 0.0, ends="(]", half_life=half_life)
    check_interval(by, 0.0, 1.0, rho_min=rho_min)
    check_interval(by, rho_min, 1.0, rho_max=rho_max)
    check_given(by, **{name: x for name, x in given.items() if not isinstance(x, Real)})
    tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
    if tensors:
        check_same_shape(by, remedy="pass one number per prompt", **tensors)
    common = result_dtype(*tensors.values()) if tensors else torch.float64
    wide = [at_least_float32(torch.as_tensor(x, dtype=common)) for x in given.values()]
    a, b, r, d = torch.broadcast_tensors(*wide)
    _check_domain(by, a, b, r, d)
    rho = torch.exp2(-d / half_life).clamp(rho_min, rho_max)
    scored = ~r.isnan()
    new_alpha, new_beta = torch.where(scored, rho * a + r, a), torch.where(scored, rho * b + (1 - r), b)
    if not tensors:
        return new_alpha.item(), new_beta.item()
    return new_alpha.to(common), new_beta.to(common)


def _check_domain(by: str, alpha: Tensor, beta: Tensor, score: Tensor, divergence: Tensor) -> None:
    scored = ~score.isnan()
    if not ((alpha >= 0) & (beta >= 0) & (alpha + beta > 0) & (alpha + beta).isfinite()).all():
        raise UsageError(f"{by}: alpha and beta must be finite, at least 0 and not both 0; a prior of 0.5 each is.")
    if not (~scored | ((score >= 0) & (score <= 1))).all():
        raise UsageError(f"{by}: score must be in [0, 1], got {_worst(score)}; scale the reward to it.")
    if not (~scored | (divergence >= 0)).all():
        raise UsageError(f"{by}: divergence must be at least 0.")


def _worst(scores: Tensor) -> float:
    """Return the score farthest from ½."""
    flat = scores.flatten()
    return flat[(flat - 0.5).abs().nan_to_num(nan=-1.0).argmax()].item()


class BetaTrackerSource(ValueSource):
    """α and β of every prompt, by its uid, and the last response to it.

    How far the policy has moved since it last answered a prompt is measured on that answer: the mean over its tokens
    of |log π then − log π now|, as in the authors' code (the paper writes a KL divergence).

    Args:
        choice: Its hyperparameters.
    """

    def __init__(self, choice: "BetaTracker") -> None:
        super().__init__()
        self.choice = choice
        self.last = LastResponses()
        self._uids = torch.zeros(0, dtype=torch.long)  # ascending
        self._counts = torch.zeros(2, 0, dtype=torch.float64)  # α, β

    def prepare(self, survey: Survey) -> None:
        """α = N₀ (Σr + ½)/(n + 1), β = N₀ (n − Σr + ½)/(n + 1), N₀ = 1/(1 − ρ_min), unless prompts are known already.

        The halves are those of the authors' code (Jeffreys' prior). A prompt without any score stays unseen.
        """
        if len(self._uids) or not self.choice.samples:
            return
        found = survey(samples=self.choice.samples, cache=self.choice.cache)
        scored = {uid: [score for score in found[uid] if not math.isnan(score)] for uid in found}
        uids = [uid for uid in sorted(scored) if scored[uid]]
        count = torch.tensor([len(scored[uid]) for uid in uids], dtype=torch.float64)
        won = torch.tensor([math.fsum(scored[uid]) for uid in uids], dtype=torch.float64)
        _check_scores(torch.tensor([score for uid in uids for score in scored[uid]]))
        self._uids = check_uids("BetaTracker", torch.tensor(uids, dtype=torch.long))
        self._counts = torch.stack([won + 0.5, count - won + 0.5]) / (count + 1) / (1 - self.choice.rho_min)

    def _read(self, uids: Tensor) -> Float[Tensor, "2 prompt"]:
        """Return α and β, or the prior for a prompt without observations."""
        positions, known = find(uids, self._uids)
        counts = torch.full((2, len(uids)), _PRIOR, dtype=torch.float64)
        counts[:, known] = self._counts[:, positions[known]]
        return counts

    def _write(self, uids: Tensor, counts: Tensor) -> None:
        """Store new α and β of these prompts, whose uids ascend."""
        merged = torch.cat([self._uids, uids]).unique()
        everything = self._read(merged)
        everything[:, find(uids, merged)[0]] = counts
        self._uids, self._counts = merged, everything

    def _rates(self, uids: Tensor) -> Float[Tensor, " prompt"]:
        alpha, beta = self._read(check_uids("BetaTracker", uids))
        return alpha / (alpha + beta)

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with v̂ = α/(α + β) of the prompt, before this observation, at every trained token."""
        rates = self._rates(batch.prompt_uids).to(batch.rewards)
        return batch.replace(values=spread(rates, batch.response_mask))

    def priorities(self, uids: Int[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
        """Return √(v̂(1 − v̂)) + ε, which is largest for prompts whose next outcome is least certain."""
        rates = self._rates(uids)
        return ((rates * (1 - rates)).sqrt() + self.choice.epsilon).float().to(uids.device)

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Count the scored responses of the batch and keep the last one of each prompt.

        The older observations of a prompt are discounted once, however many of its responses are in the batch.
        Replayed responses were counted when they were fresh.
        """
        uids = check_uids("BetaTracker", batch.prompt_uids)
        _check_scores(batch.scores)
        counted = ~batch.scores.isnan() if batch.replayed is None else ~batch.scores.isnan() & ~batch.replayed
        if not counted.any():
            return
        batch, uids = batch.select(counted), uids[counted.cpu()]
        seen, prompt = uids.unique(return_inverse=True)
        divergence = self._divergence(seen, batch, context)
        scores, order = batch.scores.cpu().double(), position_in_group(prompt)
        alpha, beta = self._read(seen)
        for place in range(int(order.max()) + 1):
            rows = order == place
            one, kept = prompt[rows], self._kept(place)
            alpha[one], beta[one] = beta_tracker_update(alpha[one], beta[one], scores[rows], divergence[one], **kept)
        self._write(seen, torch.stack([alpha, beta]))
        self._store(batch, context)

    def _kept(self, place: int) -> dict[str, float]:
        if place:
            return {"rho_min": 1.0, "rho_max": 1.0}
        choice = self.choice
        return {"half_life": choice.half_life, "rho_min": choice.rho_min, "rho_max": choice.rho_max}

    def _divergence(self, uids: Tensor, batch: RolloutBatch, context: ValueContext) -> Float[Tensor, " prompt"]:
        if self.choice.divergence == "constant":
            return torch.full((len(uids),), torch.inf, dtype=torch.float64)
        divergence = torch.zeros(len(uids), dtype=torch.float64)
        stored = torch.tensor([uid in self.last for uid in uids.tolist()])
        if stored.any():
            rows = self.last.rows(uids[stored].tolist()).to(batch.response_mask.device)
            moved = (rows.old_log_probs - context.log_probs(rows)).abs()
            divergence[stored] = masked_mean(moved, rows.response_mask, dim=-1).cpu().double()
        return divergence

    def _store(self, batch: RolloutBatch, context: ValueContext) -> None:
        written = batch.lengths > 0
        if self.choice.divergence == "constant" or not written.any():
            return
        newest = {uid: row for row, uid in enumerate(batch.prompt_uids.tolist()) if written[row]}
        rows = batch.select(torch.tensor(list(newest.values()), device=batch.response_mask.device))
        self.last.store(rows, context.log_probs(rows))

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the state saved in the checkpoint."""
        return {"uids": self._uids, "counts": self._counts, **self.last.state()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._uids, self._counts = state["uids"].cpu(), state["counts"].cpu()
        self.last.load(state)


def _check_scores(scores: Tensor) -> None:
    if not (scores.isnan() | ((scores >= 0) & (scores <= 1))).all():
        raise UsageError(
            f"BetaTracker: scores must be in [0, 1], got {_worst(scores)}; scale the reward to it, or take another "
            "value source."
        )


@dataclass(frozen=True)
class BetaTracker(ValueSpec):
    """SPO's baseline (arXiv:2509.13232): the success rate of each prompt, tracked through training.

    Args:
        half_life: Divergence at which an older observation counts half.
        rho_min: Least share kept of the older observations at a visit.
        rho_max: Largest share kept of them.
        samples: Responses to each training prompt in a survey before training; 0: none, every prompt starts at ½.
        cache: File that keeps the survey; None: one beside the runs, named after policy, prompts and sampling.
        epsilon: ε ≥ 0, what every prompt is worth drawing at least.
        divergence: What older observations are discounted by: how far the "policy" has moved, or a "constant" ρ_min.
    """

    half_life: float = 0.06
    rho_min: float = 0.875
    rho_max: float = 0.96
    samples: int = 8
    cache: str | None = None
    epsilon: float = 0.05
    divergence: Literal["policy", "constant"] = "policy"
    sees_scores: ClassVar[bool] = True
    paper: ClassVar[str] = "2509.13232"

    def __post_init__(self) -> None:
        check_interval("BetaTracker", 0.0, ends="(]", half_life=self.half_life)
        check_interval("BetaTracker", 0.0, 1.0, "[)", rho_min=self.rho_min)
        check_interval("BetaTracker", self.rho_min, 1.0, rho_max=self.rho_max)
        check_at_least("BetaTracker", 0, samples=self.samples)
        check_interval("BetaTracker", 0.0, ends="[)", epsilon=self.epsilon)
        check_choice("BetaTracker", ("policy", "constant"), divergence=self.divergence)

    def check(self, source: object, responses_per_prompt: int) -> None:
        """Accept any policy: one response per prompt is enough."""

    def build(self, source: object, policy: nn.Module | None = None) -> BetaTrackerSource:
        """Build a tracker without observations."""
        return BetaTrackerSource(self)
