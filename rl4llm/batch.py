"""`RolloutBatch`: the one data contract between the families. Its docstring is the contract."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_mask
from rl4llm.masked import keep

_PROMPT = ("prompt_ids", "prompt_mask")
_STACKED = ("critic_values", "gates")  # a leading axis before `batch`
_LISTED = ("top_ids", "top_log_probs")  # a trailing axis after `time`
_PROVIDERS = {
    "values": "a value source (the `critics` slot)",
    "critic_values": "an ensemble of critics (the `critics` slot)",
    "ref_log_probs": "a reference policy (the loop loads one when a part needs it)",
    "ref_logsumexp": "a reference policy (the loop loads one when a part needs it)",
    "segment_ids": "a value source that cuts responses into steps (for example MonteCarloValues)",
    "top_ids": "a rollout engine asked for them (HuggingFaceRollout(top_log_probs=20))",
    "top_log_probs": "a rollout engine asked for them (HuggingFaceRollout(top_log_probs=20))",
    "entropies": "the forward pass before the update (the loop asks for them when a part needs them)",
    "advantages": "an advantage estimator (the `advantage` slot)",
    "returns": "an advantage estimator that gives value targets (for example GAE)",
    "old_log_probs": "the forward pass before the update",
    "rollout_log_probs": "the rollout engine",
}


class PolicyOutput(NamedTuple):
    """What a forward pass of the policy gives at the response positions; never the logits.

    Attributes:
        log_probs: log π_θ(token), with gradient.
        entropies: H(π_θ(·|sₜ)), with gradient; None unless a part asks.
        logsumexp: log Σ exp(logits) at each position, with gradient; None unless a part asks.
        values: V(sₜ) of the policy's own value head, with gradient; None unless a part asks.
        top_log_probs: log π_θ of the batch's `top_ids`, without gradient; None unless a part asks.
    """

    log_probs: Float[Tensor, "batch time"]
    entropies: Float[Tensor, "batch time"] | None = None
    logsumexp: Float[Tensor, "batch time"] | None = None
    values: Float[Tensor, "batch time"] | None = None
    top_log_probs: Float[Tensor, "batch time top"] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class RolloutBatch:
    """B responses of at most T tokens to prompts of at most P tokens.

    `time` indexes response tokens only. The contract, the same for every function of the library:

    1. A value where `response_mask` is False is never read: NaN and inf there change nothing and get no gradient.
       Outputs there are 0 (or False).
    2. A masked hole inside a response (tool output) is stepped over, not treated as a transition.
    3. Rows may be permuted, padding columns added, groups renumbered: results follow.
    4. Empty responses, all-masked batches, groups of one and constant groups: finite, 0 where there is no signal.
    5. Recursions and reductions run in float32 at least; inputs are never mutated; estimators return no graph.
    6. Shapes and dtypes that could broadcast silently are checked at entry.

    Args:
        prompt_ids: B×P, left-padded.
        prompt_mask: B×P bool, True at prompt tokens.
        response_ids: B×T, right-padded; the first EOS is part of the response.
        response_mask: B×T bool, True where the policy sampled the token and may learn from it.
        group_ids: B, which prompt *draw* a response answers; any order, ragged; two draws of a prompt are two groups.
        prompt_uids: B, stable identity of the prompt in its data set; negative where it has none.
        scores: B, one verified score a response; NaN = could not be scored (left out of statistics, advantage 0).
        truncated: B bool, True where the length limit came before EOS.
        rewards: B×T, `scores` on the last response token plus any per-token shaping.
        rollout_log_probs: B×T, as the sampling engine reported them.
        old_log_probs: B×T, under the policy at the start of the update.
        ref_log_probs: B×T, under the frozen reference.
        ref_logsumexp: B×T, log Σ exp(logits) under the frozen reference.
        critic_values: M×B×T, one slice a critic.
        values: B×T, what the estimator uses: V(sₜ), sₜ = the prefix before token t.
        entropies: B×T, H(π(·|sₜ)) at rollout time.
        advantages: B×T, Aₜ as the objective uses it.
        returns: B×T, the value targets.
        gates: G×B×T bool, one slice a gate of the composed algorithm (the objective's first).
        segment_ids: B×T int, which step of its response a token belongs to: 0, 1, ... in order.
        top_ids: B×T×K int, the likeliest tokens of the sampling engine.
        top_log_probs: B×T×K, their log-probs, as the engine reported them.
        replayed: B bool, True where the response was drawn at an earlier step; its `old_log_probs` are of that time.
        policy_version: B int, which weights of the policy drew the response; the loop compares it with the present
            version: equal is on-policy, smaller is off-policy.
    """

    prompt_ids: Int[Tensor, "batch prompt"]
    prompt_mask: Bool[Tensor, "batch prompt"]
    response_ids: Int[Tensor, "batch time"]
    response_mask: Bool[Tensor, "batch time"]
    group_ids: Int[Tensor, " batch"]
    prompt_uids: Int[Tensor, " batch"]
    scores: Float[Tensor, " batch"]
    truncated: Bool[Tensor, " batch"]
    rewards: Float[Tensor, "batch time"]
    rollout_log_probs: Float[Tensor, "batch time"]
    old_log_probs: Float[Tensor, "batch time"]
    ref_log_probs: Float[Tensor, "batch time"] | None = None
    ref_logsumexp: Float[Tensor, "batch time"] | None = None
    critic_values: Float[Tensor, "critic batch time"] | None = None
    values: Float[Tensor, "batch time"] | None = None
    entropies: Float[Tensor, "batch time"] | None = None
    advantages: Float[Tensor, "batch time"] | None = None
    returns: Float[Tensor, "batch time"] | None = None
    gates: Bool[Tensor, "gate batch time"] | None = None
    segment_ids: Int[Tensor, "batch time"] | None = None
    top_ids: Int[Tensor, "batch time top"] | None = None
    top_log_probs: Float[Tensor, "batch time top"] | None = None
    replayed: Bool[Tensor, " batch"] | None = None
    policy_version: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        check_mask("RolloutBatch", response_mask=self.response_mask, prompt_mask=self.prompt_mask)
        batch, time = self.response_mask.shape
        for name, tensor in self._tensors().items():
            expected: tuple[int, ...]
            if name in _PROMPT:
                expected = (batch, self.prompt_mask.shape[1])
            elif tensor.ndim == 1:
                expected = (batch,)
            else:
                expected = (batch, time)
            got = tuple(tensor.shape)
            stacked, listed = name in _STACKED, name in _LISTED
            if (got[1:] if stacked else got[:-1] if listed else got) != expected:
                shape = ("*", *expected) if stacked else (*expected, "*") if listed else expected
                raise UsageError(
                    f"RolloutBatch: {name} has shape {got}, response_mask {(batch, time)}; expected {shape}."
                )

    def __len__(self) -> int:
        return self.response_mask.shape[0]

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of trained tokens of each response."""
        return self.response_mask.sum(-1)

    @property
    def widths(self) -> Int[Tensor, " batch"]:
        """Columns each response needs: one more than its last trained position (0 for none)."""
        columns = torch.arange(1, self.response_mask.shape[1] + 1, device=self.response_mask.device)
        return (self.response_mask * columns).amax(-1) if self.response_mask.shape[1] else self.lengths

    @property
    def scored_mask(self) -> Bool[Tensor, "batch time"]:
        """`response_mask` without the responses that could not be scored."""
        return self.response_mask & ~self.scores.isnan()[:, None]

    @property
    def outcomes(self) -> Float[Tensor, " batch"]:
        """`scores` plus whatever shaping `rewards` holds beyond them; what group-relative estimators compare."""
        shaping = keep(self.rewards - place_scores(self.scores, self.response_mask), self.scored_mask)
        return self.scores + shaping.sum(-1)

    def replace(self, **changes: Tensor | None) -> "RolloutBatch":
        """The same batch with some fields exchanged."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "RolloutBatch":
        """The same batch on another device. Dtypes stay: log-probs are never cast."""
        return self.replace(**{n: t.to(device, non_blocking=non_blocking) for n, t in self._tensors().items()})

    def select(self, rows: Tensor) -> "RolloutBatch":
        """The given rows, by index or by truth value, in that order."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return self.replace(**{n: t.index_select(int(n in _STACKED), index) for n, t in self._tensors().items()})

    def split(self, sizes: Sequence[int]) -> list["RolloutBatch"]:
        """Consecutive pieces of the given numbers of rows, which must sum to the batch."""
        if sum(sizes) != len(self):
            raise UsageError(f"RolloutBatch.split: sizes sum to {sum(sizes)}, the batch has {len(self)} rows.")
        pieces = torch.arange(len(self), device=self.response_mask.device).split(list(sizes))
        return [self.select(piece) for piece in pieces]

    def trim(self) -> "RolloutBatch":
        """Without the padding columns that no row needs; one column stays where every row is empty."""
        time = max(1, int(self.widths.max())) if len(self) else 0
        used = self.prompt_mask.any(0).nonzero()
        start = int(used[0]) if len(used) else self.prompt_mask.shape[1]
        cut: dict[str, Any] = {
            n: t[:, :time] if n in _LISTED else t[..., :time] for n, t in self._tensors().items() if t.ndim > 1
        }
        cut |= {name: getattr(self, name)[:, start:] for name in _PROMPT}
        return self.replace(**cut)

    @classmethod
    def cat(cls, batches: Sequence["RolloutBatch"]) -> "RolloutBatch":
        """Rows of all batches, padded to common widths. A field that some batch lacks is left out."""
        if not batches:
            raise UsageError("RolloutBatch.cat: needs at least one batch, got none.")
        prompt = max(batch.prompt_mask.shape[1] for batch in batches)
        time = max(batch.response_mask.shape[1] for batch in batches)
        shared = set.intersection(*(set(batch._tensors()) for batch in batches))
        joined = {}
        for name in shared:
            pieces = [_padded(name, getattr(batch, name), prompt, time) for batch in batches]
            joined[name] = torch.cat(pieces, dim=int(name in _STACKED))
        return cls(**joined)

    def require(self, *names: str, by: str) -> tuple[Tensor, ...]:
        """The named fields. Raises if one is not there, naming who needs it and what provides it."""
        for name in names:
            if getattr(self, name) is None:
                raise UsageError(
                    f"{by} needs {name}, which this batch does not hold; it comes from {_PROVIDERS.get(name, name)}."
                )
        return tuple(getattr(self, name) for name in names)


def _padded(name: str, tensor: Tensor, prompt: int, time: int) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    if name in _PROMPT:
        return torch.nn.functional.pad(tensor, (prompt - tensor.shape[-1], 0))
    if name in _LISTED:
        return torch.nn.functional.pad(tensor, (0, 0, 0, time - tensor.shape[1]))
    return torch.nn.functional.pad(tensor, (0, time - tensor.shape[-1]))


def place_scores(
    scores: Float[Tensor, " batch"], response_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Token rewards that hold each score at the last trained token of its response.

        rₜ = score if t is the last position with mask True, else 0

    A response that could not be scored (NaN) or has no trained token gets zeros.

    Args:
        scores: One number a response; NaN where it could not be scored.
        response_mask: True at trained tokens.

    Returns:
        Rewards, zero where `response_mask` is False; Σₜ rₜ is the score.

    Raises:
        UsageError: If the numbers of rows differ or the mask is not boolean.

    Example:
        >>> place_scores(torch.tensor([1.0, 2.0]), torch.tensor([[True, True, False], [True, False, True]]))
        tensor([[0., 1., 0.],
                [0., 0., 2.]])
    """
    check_mask("place_scores", response_mask=response_mask)
    if scores.shape != response_mask.shape[:1]:
        raise UsageError(
            f"place_scores: scores has shape {tuple(scores.shape)}, response_mask {tuple(response_mask.shape)}; "
            "pass one score per response."
        )
    later = response_mask.flip(-1).cumsum(-1).flip(-1)
    return keep(scores[:, None].expand(response_mask.shape), response_mask & (later == 1) & ~scores.isnan()[:, None])
