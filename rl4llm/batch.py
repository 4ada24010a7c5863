"""`RolloutBatch`: the one data contract between the families. Its docstring is the contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl4llm.axes import Axes, axes_of, check_axes, cut, dtype_of, padded
from rl4llm.checks import UsageError, check_device, check_given, check_mask, check_ndim, check_response_tensors
from rl4llm.masked import keep
from rl4llm.roles import check_kinds, check_roles

_REMEDIES = {
    "entropies": "call token_log_probs with entropy=True",
    "logsumexp": "call token_log_probs with logsumexp=True",
    "values": "use a policy with a value head",
    "top_log_probs": "call listed_log_probs with the batch's top_ids",
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

    def map(self, function: Callable[[Tensor], Tensor]) -> "PolicyOutput":
        """Apply a function to every output that is there."""
        present = {name: x for name, x in self._asdict().items() if x is not None}
        return self._replace(**{name: function(x) for name, x in present.items()})

    def require(self, *names: str, by: str) -> tuple[Tensor, ...]:
        """The named outputs. Raises if one is not there, naming who needs it and the remedy."""
        for name in names:
            if getattr(self, name) is None:
                raise UsageError(
                    f"{by} needs policy.{name}, got None; {_REMEDIES[name]} (the loop does so for parts whose `asks` "
                    f"holds '{name}')."
                )
        return tuple(getattr(self, name) for name in names)


# Who gives a field that a batch may lack: in one word for the library, in a sentence for messages.
_ENGINE = {"source": "engine", "provider": "the rollout engine"}
_TOP = {"source": "engine", "provider": "a rollout engine asked for them (HuggingFaceRollout(top_log_probs=20))"}
_ENTROPIES = {"source": "engine", "provider": "a rollout engine that reports them (HuggingFaceRollout does)"}
_PRESENT = {"source": "gate", "provider": "the loop, for gates that are chosen anew at each optimizer step"}
_REFERENCE = {"source": "reference", "provider": "a reference policy (the loop loads one when a part needs it)"}
_VALUES = {"source": "critics", "provider": "a value source (the `critics` slot)"}
_ENSEMBLE = {"source": "critics", "provider": "an ensemble of critics (the `critics` slot)"}
_RETURN_SPREAD = {
    "source": "critics",
    "provider": "critics whose head says how returns are spread (QuantileHead, HistogramHead or SigmoidHead)",
}
_SEGMENTS = {"source": "critics", "provider": "a value source that cuts responses into steps (MonteCarloValues does)"}
_ADVANTAGES = {"source": "advantage", "provider": "an advantage estimator (the `advantage` slot)"}
_RETURNS = {"source": "advantage", "provider": "an advantage estimator that gives value targets (for example GAE)"}
_WEIGHTS = {"source": "critics", "provider": "a value loss that weighs responses, from `prepare` on the whole batch"}
_GATES = {"source": "gate", "provider": "the loop, which evaluates the gates (the `gate` slot)"}
_TASK = {"source": "task", "provider": "the task, by its reward and `correct_above`"}
_REPLAY = {"source": "replay", "provider": "a replay of earlier responses (the `replay` slot)"}


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
        present_log_probs: B×T, under the policy at the optimizer step, for gates that are chosen anew at each.
        ref_log_probs: B×T, under the frozen reference.
        ref_logsumexp: B×T, log Σ exp(logits) under the frozen reference.
        critic_values: M×B×T, one slice a critic.
        values: B×T, what the estimator uses: V(sₜ), sₜ = the prefix before token t.
        return_spread: B×T, standard deviation of the return from sₜ on, as the heads of the critics say it.
        end_values: B, V after the last token of truncated responses, where it is bootstrapped; 0 for the others.
        entropies: B×T, H(μ(·|sₜ)) at the sampled tokens, as the sampling engine reported them.
        advantages: B×T, Aₜ as the objective uses it.
        returns: B×T, the value targets.
        value_weights: B, how much a response weighs in the value loss.
        gates: G×B×T bool, one slice a gate of the composed algorithm (the objective's first).
        counted: G×B×T bool, the tokens over which the mean of each gate's term is taken, kept or not.
        segment_ids: B×T int, which step of its response a token belongs to: 0, 1, ... in order.
        top_ids: B×T×K int, the likeliest tokens of the sampling engine.
        top_log_probs: B×T×K, their log-probs, as the engine reported them.
        replayed: B bool, True where the response was drawn at an earlier step; its `old_log_probs` are of that time.
        policy_version: B int, which weights of the policy drew the response; the loop compares it with the present
            version: equal is on-policy, smaller is off-policy.
        correct: B bool, True where the task calls the response correct; read it through `solved`.
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
    present_log_probs: Float[Tensor, "batch time"] | None = field(default=None, metadata=_PRESENT)
    ref_log_probs: Float[Tensor, "batch time"] | None = field(default=None, metadata=_REFERENCE)
    ref_logsumexp: Float[Tensor, "batch time"] | None = field(default=None, metadata=_REFERENCE)
    critic_values: Float[Tensor, "critic batch time"] | None = field(default=None, metadata=_ENSEMBLE)
    values: Float[Tensor, "batch time"] | None = field(default=None, metadata=_VALUES)
    return_spread: Float[Tensor, "batch time"] | None = field(default=None, metadata=_RETURN_SPREAD)
    end_values: Float[Tensor, " batch"] | None = field(default=None, metadata=_VALUES)
    entropies: Float[Tensor, "batch time"] | None = field(default=None, metadata=_ENTROPIES)
    advantages: Float[Tensor, "batch time"] | None = field(default=None, metadata=_ADVANTAGES)
    returns: Float[Tensor, "batch time"] | None = field(default=None, metadata=_RETURNS)
    value_weights: Float[Tensor, " batch"] | None = field(default=None, metadata=_WEIGHTS)
    gates: Bool[Tensor, "gate batch time"] | None = field(default=None, metadata=_GATES)
    counted: Bool[Tensor, "gate batch time"] | None = field(default=None, metadata=_GATES)
    segment_ids: Int[Tensor, "batch time"] | None = field(default=None, metadata=_SEGMENTS)
    top_ids: Int[Tensor, "batch time top"] | None = field(default=None, metadata=_TOP)
    top_log_probs: Float[Tensor, "batch time top"] | None = field(default=None, metadata=_TOP)
    replayed: Bool[Tensor, " batch"] | None = field(default=None, metadata=_REPLAY)
    policy_version: Int[Tensor, " batch"] | None = field(default=None, metadata=_ENGINE)
    correct: Bool[Tensor, " batch"] | None = field(default=None, metadata=_TASK)

    def __post_init__(self) -> None:
        tensors = {name: getattr(self, name) for name in _REQUIRED} | self.tensors()
        check_given("RolloutBatch", **tensors)
        check_mask("RolloutBatch", response_mask=self.response_mask, prompt_mask=self.prompt_mask)
        check_ndim("RolloutBatch", 2, axes="batch time", response_mask=self.response_mask)
        check_axes("RolloutBatch", tensors, AXES, {})
        check_device("RolloutBatch", **tensors)
        check_kinds("RolloutBatch", tensors, _KINDS)
        del tensors["rewards"]  # the loop reports rewards that are not finite, with the part that gave them
        check_roles("RolloutBatch", self.response_mask, **tensors)

    def __len__(self) -> int:
        return self.response_mask.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that this batch holds, by name, in the order of their declaration."""
        return {name: tensor for name in AXES if (tensor := getattr(self, name)) is not None}

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
    def solved(self) -> Bool[Tensor, " batch"]:
        """True where a response is correct: as its task says or, without a task, where its score is positive."""
        return self.scores > 0 if self.correct is None else self.correct & ~self.scores.isnan()

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
        return self.replace(**{n: t.to(device, non_blocking=non_blocking) for n, t in self.tensors().items()})

    def select(self, rows: Tensor) -> "RolloutBatch":
        """The given rows, by index or by truth value, in that order."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        chosen = {n: t.index_select(AXES[n].index("batch"), index) for n, t in self.tensors().items()}
        return self.replace(**chosen)

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
        kept = {"prompt": slice(start, None), "time": slice(time)}
        return self.replace(**{name: cut(tensor, AXES[name], kept) for name, tensor in self.tensors().items()})

    @classmethod
    def empty_like(cls, batch: "RolloutBatch") -> "RolloutBatch":
        """Return a batch without rows that has the fields and widths of another."""
        return batch.select(torch.zeros(0, dtype=torch.long, device=batch.response_mask.device))

    @classmethod
    def cat(cls, batches: Sequence["RolloutBatch"]) -> "RolloutBatch":
        """Rows of all batches, padded to common widths. A field that some batch lacks is left out."""
        if not batches:
            raise UsageError("RolloutBatch.cat: needs at least one batch, got none.")
        widths = {
            "prompt": max(batch.prompt_mask.shape[1] for batch in batches),
            "time": max(batch.response_mask.shape[1] for batch in batches),
        }
        joined = {}
        for name in batches[0].tensors():
            pieces = [getattr(batch, name) for batch in batches]
            if all(piece is not None for piece in pieces):
                joined[name] = torch.cat(
                    [padded(piece, AXES[name], widths) for piece in pieces], AXES[name].index("batch")
                )
        return cls(**joined)

    def require(self, *names: str, by: str) -> tuple[Tensor, ...]:
        """The named fields. Raises if one is not there, naming who needs it and what provides it."""
        for name in (name for name in names if getattr(self, name) is None):
            raise UsageError(f"{by} needs {name}, which this batch does not hold; it comes from {_PROVIDERS[name]}.")
        return tuple(getattr(self, name) for name in names)


AXES: Mapping[str, Axes] = {field.name: axes_of(field.type) for field in fields(RolloutBatch)}
"""The axes of every field, as annotated: "batch", "prompt", "time", "critic", "gate" and "top"."""

SOURCES: Mapping[str, str] = {field.name: field.metadata["source"] for field in fields(RolloutBatch) if field.metadata}
"""Who gives a field that may be missing: "engine", "task", "reference", "critics", "advantage", "gate" or "replay"."""

# The masks are first, as the sizes are theirs.
_REQUIRED = ("response_mask", "prompt_mask", *(field.name for field in fields(RolloutBatch) if not field.metadata))
_KINDS = {field.name: dtype_of(field.type) for field in fields(RolloutBatch)}
_PROVIDERS = {field.name: field.metadata["provider"] for field in fields(RolloutBatch) if field.metadata}


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
    check_response_tensors("place_scores", response_mask, scores=scores)
    later = response_mask.flip(-1).cumsum(-1).flip(-1)
    return keep(scores[:, None].expand(response_mask.shape), response_mask & (later == 1) & ~scores.isnan()[:, None])
