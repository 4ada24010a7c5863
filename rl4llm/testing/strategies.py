"""Hypothesis strategies that draw valid rollout batches: ragged, holed, empty, in any order."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from rl4llm.batch import RolloutBatch, place_scores

Draw = Callable[..., Any]


@st.composite
def masks(draw: Draw, max_batch: int = 5, max_time: int = 8, holes: bool = True) -> Tensor:
    """A batch × time response mask: ragged lengths, empty rows, holes, padding; at least one row and column."""
    batch, time = draw(st.integers(1, max_batch)), draw(st.integers(1, max_time))
    if holes:
        flat = draw(st.lists(st.booleans(), min_size=batch * time, max_size=batch * time))
        return torch.tensor(flat).reshape(batch, time)
    lengths = draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    return torch.arange(time) < torch.tensor(lengths)[:, None]


@st.composite
def tensors(draw: Draw, shape: tuple[int, ...], low: float = -3.0, high: float = 3.0) -> Tensor:
    """Float64 numbers in [low, high]: from a drawn seed, with a drawn share of them rounded so that ties occur."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    return x.round() if draw(st.integers(0, 3)) == 0 else x


@st.composite
def group_ids(draw: Draw, batch: int) -> Tensor:
    """Ids of ragged groups in any order, with arbitrary labels."""
    members = draw(st.lists(st.integers(0, max(batch - 1, 0)), min_size=batch, max_size=batch))
    labels = draw(st.permutations(range(-3, batch + 20)))
    return torch.tensor([labels[member] for member in members], dtype=torch.long)


@st.composite
def scores(draw: Draw, batch: int, unscorable: bool = True) -> Tensor:
    """Scores with ties, negatives and, where allowed, NaN for responses that could not be scored."""
    choices: list[float] = [0.0, 1.0, -1.0, 0.1, 0.5]
    number = st.one_of(st.sampled_from(choices), st.floats(-1e4, 1e4, width=32))
    number = st.one_of(number, st.just(float("nan"))) if unscorable else number
    return torch.tensor(draw(st.lists(number, min_size=batch, max_size=batch)), dtype=torch.float64)


@st.composite
def rollouts(draw: Draw, critics: int | None = None, unscorable: bool = True, **mask_options: Any) -> RolloutBatch:
    """A whole valid `RolloutBatch` in float64 with every optional field filled."""
    mask = draw(masks(**mask_options))
    batch, time = mask.shape
    count = draw(st.integers(1, 4)) if critics is None else critics
    drawn_scores = draw(scores(batch, unscorable))
    log_probs = draw(tensors((batch, time), -6.0, -0.01))
    critic_values = draw(tensors((count, batch, time)))
    groups = draw(group_ids(batch))
    return RolloutBatch(
        prompt_ids=torch.ones(batch, 3, dtype=torch.long),
        prompt_mask=torch.ones(batch, 3, dtype=torch.bool),
        response_ids=torch.arange(batch)[:, None].repeat(1, time),  # no two responses are the same
        response_mask=mask,
        group_ids=groups,
        prompt_uids=groups.abs() // 2,  # two draws of a prompt may be in one batch
        scores=drawn_scores,
        truncated=torch.zeros(batch, dtype=torch.bool),
        rewards=place_scores(drawn_scores, mask),
        rollout_log_probs=log_probs,
        old_log_probs=log_probs + 0.1 * draw(tensors((batch, time))),
        ref_log_probs=log_probs + 0.1 * draw(tensors((batch, time))),
        critic_values=critic_values,
        values=critic_values.mean(0),
        entropies=draw(tensors((batch, time), 0.0, 3.0)),
        advantages=draw(tensors((batch, time))),
        returns=draw(tensors((batch, time))),
        ref_logsumexp=draw(tensors((batch, time))),
        segment_ids=draw(tensors((batch, time), 0.0, 1.0)).round().long().cumsum(-1),
        top_ids=torch.stack([torch.full((batch, time), 2), draw(tensors((batch, time), 0.0, 1.0)).round().long()], -1),
        top_log_probs=draw(tensors((batch, time, 2), -6.0, -1.0)),
        replayed=torch.zeros(batch, dtype=torch.bool),
    )
