"""Hypothesis strategies that draw valid rollout batches: ragged, holed, empty, in any order.

Structure (masks, groups, scores) is drawn piece by piece, so that it shrinks piece by piece. Token numbers come from a
drawn seed and a drawn precision: a counterexample holds small whole numbers wherever those break the law too.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.masked import keep

Draw = Callable[..., Any]

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
LIKELY, UNLIKELY = -1e-6, -50.0


@st.composite
def masks(draw: Draw, max_batch: int = 5, max_time: int = 8, holes: bool = True) -> Tensor:
    """A batch × time response mask: ragged, empty rows, padding; at least one row and column.

    Args:
        draw: Of Hypothesis.
        max_batch: Rows at most.
        max_time: Columns at most.
        holes: Whether padding may stand on the left too, and between trained tokens.
    """
    batch, time = draw(st.integers(1, max_batch)), draw(st.integers(1, max_time))
    columns = torch.arange(time)
    kind = draw(st.sampled_from(["right", "left", "holes"])) if holes else "right"
    if kind == "holes":
        return torch.stack([_flags(draw, time) for _ in range(batch)])
    length = st.integers(0, time)
    lengths = torch.tensor([draw(length) for _ in range(batch)])[:, None]
    return columns >= time - lengths if kind == "left" else columns < lengths


def _flags(draw: Draw, count: int) -> Tensor:
    """Truth values from one drawn integer, which shrinks to all False."""
    bits = draw(st.integers(0, 2**count - 1))
    return torch.tensor([bits >> place & 1 for place in range(count)], dtype=torch.bool)


class _Numbers:
    """Token numbers from a drawn seed, in a drawn precision."""

    def __init__(self, draw: Draw) -> None:
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        self.decimals = draw(st.sampled_from([0, 1, None, None]))

    def __call__(self, shape: tuple[int, ...], low: float = -3.0, high: float = 3.0) -> Tensor:
        x = low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return x if self.decimals is None else x.round(decimals=self.decimals).clamp(low, high)

    def log_probs(self, shape: tuple[int, ...], *, extreme: bool) -> Tensor:
        if not extreme:
            return self(shape, -6.0, -0.01)
        kind, moderate = self(shape, 0.0, 3.0), self(shape, UNLIKELY, LIKELY)
        return torch.where(kind < 1, torch.full_like(kind, LIKELY), torch.where(kind > 2, UNLIKELY, moderate))

    def moved(self, sampled: Tensor, *, extreme: bool) -> Tensor:
        if extreme:
            return self.log_probs(tuple(sampled.shape), extreme=True)
        return (sampled + 0.1 * self(tuple(sampled.shape))).clamp(max=LIKELY)


@st.composite
def tensors(draw: Draw, shape: tuple[int, ...], low: float = -3.0, high: float = 3.0) -> Tensor:
    """Float64 numbers in [low, high], whole ones or ones with one decimal often enough for ties to occur."""
    return _Numbers(draw)(shape, low, high)


@st.composite
def log_probs(draw: Draw, shape: tuple[int, ...]) -> Tensor:
    """Float64 log-probs, mostly moderate ones; sometimes from all but certain (−1e−6) to all but impossible (−50)."""
    return _Numbers(draw).log_probs(shape, extreme=draw(st.integers(0, 3)) == 3)


@st.composite
def group_ids(draw: Draw, batch: int) -> Tensor:
    """Ids of ragged groups in any order, from one group of all to groups of one, with arbitrary labels."""
    member = st.integers(0, draw(st.integers(0, max(batch - 1, 0))))
    members = torch.tensor([draw(member) for _ in range(batch)], dtype=torch.long)
    relabel = draw(st.integers(0, 99))
    if not relabel:
        return members
    return torch.randperm(batch + 20, generator=torch.Generator().manual_seed(relabel))[members] - 3


@st.composite
def scores(draw: Draw, batch: int, unscorable: bool = True) -> Tensor:
    """Scores with ties, negatives, up to ±1e4 and, where allowed, NaN for responses that could not be scored."""
    any_number = st.integers(-(10**7), 10**7).map(lambda thousandths: thousandths / 1000)
    choices = [0.0, 1.0, -1.0, 0.1, 0.5, draw(any_number), draw(any_number)]
    choices += [float("nan")] * 2 if unscorable else []
    which = st.integers(0, len(choices) - 1)
    return torch.tensor([choices[draw(which)] for _ in range(batch)], dtype=torch.float64)


@st.composite
def rollouts(
    draw: Draw,
    critics: int | None = None,
    unscorable: bool = True,
    dtype: torch.dtype | None = torch.float64,
    shaped: bool = True,
    **mask_options: Any,
) -> RolloutBatch:
    """A whole valid `RolloutBatch` with every optional field that a part may read, and sometimes `policy_version`.

    Args:
        draw: Of Hypothesis.
        critics: How many; one to eight by default.
        unscorable: Whether scores may be NaN.
        dtype: The dtype of every floating field; None draws one of `DTYPES`.
        shaped: Whether rewards may hold more than the scores.
        mask_options: Of [masks][rl4llm.testing.strategies.masks]; by default up to 5 rows, and up to 16 now and then.
    """
    if "max_batch" not in mask_options:
        mask_options["max_batch"] = draw(st.sampled_from([5, 5, 5, 16]))
    mask = draw(masks(**mask_options))
    groups, own_scores = draw(group_ids(len(mask))), draw(scores(len(mask), unscorable))
    fields = _identities(draw, mask, groups)
    fields |= _numbers_of_tokens(draw, mask, draw(st.integers(1, 8)) if critics is None else critics)
    shaping = 0.1 * fields["entropies"] if shaped and draw(st.booleans()) else torch.zeros(mask.shape)
    fields |= {"scores": own_scores, "rewards": place_scores(own_scores, mask) + keep(shaping, mask)}
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    if draw(st.booleans()):
        fields["policy_version"] = _Numbers(draw)((len(mask),), 0.0, 3.0).round().long()
    return RolloutBatch(**{name: x.to(dtype) if x.is_floating_point() else x for name, x in fields.items()})


def _identities(draw: Draw, mask: Tensor, groups: Tensor) -> dict[str, Tensor]:
    (batch, time), numbers = mask.shape, _Numbers(draw)
    return {
        "prompt_ids": numbers((batch, 3), 1.0, 9.0).long(),
        "prompt_mask": torch.arange(3) >= 3 - numbers((batch, 1), 1.0, 3.0).round(),  # left-padded
        "response_ids": torch.arange(batch)[:, None].repeat(1, time),  # no two responses are the same
        "response_mask": mask,
        "group_ids": groups,
        "prompt_uids": groups.abs() // 2,  # two draws of a prompt may be in one batch
        "truncated": _flags(draw, batch),
        "replayed": _flags(draw, batch),
        "segment_ids": numbers((batch, time), 0.0, 1.0).round().long().cumsum(-1),
        "top_ids": torch.stack([torch.full((batch, time), 2), numbers((batch, time), 0.0, 1.0).round().long()], -1),
    }


def _numbers_of_tokens(draw: Draw, mask: Tensor, critics: int) -> dict[str, Tensor]:
    numbers, shape, extreme = _Numbers(draw), tuple(mask.shape), draw(st.integers(0, 3)) == 3
    sampled, critic_values = numbers.log_probs(shape, extreme=extreme), numbers((critics, *shape))
    return {
        "rollout_log_probs": sampled,
        "old_log_probs": numbers.moved(sampled, extreme=extreme),
        "ref_log_probs": numbers.moved(sampled, extreme=extreme),
        "critic_values": critic_values,
        "values": critic_values.mean(0),
        "entropies": numbers(shape, 0.0, 3.0),
        "advantages": numbers(shape),
        "returns": numbers(shape),
        "ref_logsumexp": numbers(shape),
        "top_log_probs": numbers((*shape, 2), -6.0, -1.0),
        "value_weights": numbers(shape[:1], 0.0, 3.0),
        "return_spread": numbers(shape, 0.0, 1.0),
    }
