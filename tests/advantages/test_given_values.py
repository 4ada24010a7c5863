"""Estimators whose values come from elsewhere: one baseline a response, one value a segment; CoRPO's diagnostic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import (
    CorrectnessRelative,
    SegmentMonteCarlo,
    SingleStream,
    Whiten,
    correctness_relative,
    gae,
    leave_one_out,
    segment_advantages,
    tracker_advantages,
)
from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.segment_ids import consecutive_segments, segment_starts
from rl4llm.testing.reference import values as reference
from rl4llm.testing.strategies import masks, rollouts, tensors

NAN = float("nan")
FEWER = settings(max_examples=settings.default.max_examples // 3)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@st.composite
def segmented(draw):
    """Boundary values (NaN where there is no segment), scores, segment ids and a mask."""
    mask = draw(masks())
    ids = draw(tensors(tuple(mask.shape), 0.0, 1.0)).round().long().cumsum(-1)
    ids = consecutive_segments(ids, mask)
    count = segment_starts(ids, mask).sum(-1, keepdim=True)
    size = int(count.max()) + draw(st.integers(0, 2))
    values = draw(tensors((len(mask), size))).masked_fill(
        torch.arange(size) >= count, draw(st.sampled_from([NAN, 1e30]))
    )
    scores = draw(st.lists(st.sampled_from([0.0, 1.0, 0.5, NAN]), min_size=len(mask), max_size=len(mask)))
    return values, doubles(*scores), ids, mask


# --- one baseline a response ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, NAN]), st.floats(-5, 5)), min_size=1, max_size=6))
def test_the_baseline_is_subtracted(rows):
    scores, baselines = doubles(*rows).T
    assert torch.equal(tracker_advantages(scores, baselines), reference.tracker_advantages(scores, baselines))
    assert torch.equal(tracker_advantages(scores, scores), torch.zeros(len(rows), dtype=torch.float64))
    poisoned = baselines.masked_fill(scores.isnan(), NAN)
    assert torch.equal(tracker_advantages(scores, poisoned), tracker_advantages(scores, baselines))


def test_a_leave_one_out_baseline_makes_it_leave_one_out():
    scores = doubles(1.0, 0.0, 0.0, 0.5)
    others = (scores.sum() - scores) / 3
    close(tracker_advantages(scores, others), leave_one_out(scores, torch.zeros(4, dtype=torch.long)))


@FEWER
@given(rollouts())
def test_the_first_trained_value_is_the_baseline_of_the_whole_response(batch):
    advantages = SingleStream()(batch)
    assert advantages.returns is None
    for row, mask in enumerate(batch.scored_mask.tolist()):
        tokens = [t for t, trained in enumerate(mask) if trained]
        expected = [float(batch.outcomes[row] - batch.values[row, tokens[0]]) for _ in tokens]
        close(advantages.advantages[row, tokens], doubles(*expected))
    assert not advantages.advantages[~batch.scored_mask].any()


@FEWER
@given(rollouts())
def test_whitened_over_responses_it_knows_neither_scale_nor_shift(batch):
    raw = SingleStream()(batch).advantages
    whitened = Whiten(level="response")(raw, batch)
    moved = Whiten(level="response")(torch.where(batch.scored_mask, 3 * raw + 2, 0.0), batch)
    torch.testing.assert_close(moved, whitened, rtol=1e-6, atol=1e-6)


def test_single_stream_counts_shaping_and_needs_values():
    mask = torch.tensor([[True, True]])
    rewards = place_scores(doubles(1.0), mask) - 0.25
    batch = make(mask, doubles(1.0), rewards, values=doubles([0.5, 9.0]))
    assert SingleStream()(batch).advantages.tolist() == [[0.0, 0.0]]  # 1 − 2 · 0.25 − 0.5
    with pytest.raises(UsageError, match=r"SingleStream needs values, .* a value source"):
        SingleStream()(batch.replace(values=None))


def make(mask, scores, rewards, **fields):
    zeros, ids = torch.zeros(mask.shape, dtype=torch.float64), torch.zeros(mask.shape, dtype=torch.long)
    rows = torch.arange(len(mask))
    return RolloutBatch(
        prompt_ids=ids[:, :1],
        prompt_mask=torch.ones(len(mask), 1, dtype=torch.bool),
        response_ids=ids,
        response_mask=mask,
        group_ids=rows,
        prompt_uids=rows,
        scores=scores,
        truncated=torch.zeros(len(mask), dtype=torch.bool),
        rewards=rewards,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        **fields,
    )


# --- one value a segment --------------------------------------------------------------------------------------------


@given(segmented())
def test_segments_equal_the_reference_and_read_nothing_else(case):
    values, scores, ids, mask = case
    close(segment_advantages(*case), reference.segment_advantages(*case))
    garbage = segment_advantages(values, scores, ids.masked_fill(~mask, -7), mask)
    assert torch.equal(garbage, segment_advantages(*case))


@given(segmented())
def test_the_advantages_of_the_segments_telescope(case):
    values, scores, ids, mask = case
    advantages, starts = segment_advantages(*case), segment_starts(ids, mask)
    total = (advantages * starts).sum(-1)
    counted = mask.any(-1) & ~scores.isnan()
    close(total[counted], (scores - values[:, :1].sum(-1))[counted])
    assert not total[~counted].any()
    for row in range(len(mask)):
        for segment in ids[row, mask[row]].unique():
            assert advantages[row, mask[row] & (ids[row] == segment)].unique().numel() == 1


@given(segmented())
def test_it_is_generalized_advantage_estimation_over_segments(case):
    values, scores, ids, mask = case
    if not values.shape[1]:
        return
    steps = torch.arange(values.shape[1]) < segment_starts(ids, mask).sum(-1, keepdim=True)
    steps = steps & ~scores.isnan()[:, None]
    expected = gae(place_scores(scores, steps), values, steps, gamma=1.0, lam=0.0).advantages
    for row in range(len(mask)):
        for column in mask[row].nonzero()[:, 0].tolist():
            close(segment_advantages(*case)[row, column], expected[row, ids[row, column]])


def test_hand_computed_segments():
    values, ids = doubles([0.5, 0.75, 0.25], [0.5, NAN, NAN]), torch.tensor([[0, 0, 1, 9, 2], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[True, True, True, False, True], [True] * 5])
    got = segment_advantages(values, doubles(1.0, 0.0), ids, mask)
    assert got.tolist() == [[0.25, 0.25, -0.5, 0.0, 0.75], [-0.5] * 5]
    assert segment_advantages(values[:, :0], doubles(1, 0), ids, torch.zeros_like(mask)).tolist() == [[0.0] * 5] * 2


@FEWER
@given(rollouts())
def test_the_estimator_reads_values_where_segments_begin(batch):
    batch = batch.replace(rewards=batch.rewards + 0.25)  # shaping counts with the score
    result = SegmentMonteCarlo()(batch)
    mask = batch.scored_mask
    ids, starts = consecutive_segments(batch.segment_ids, mask), segment_starts(batch.segment_ids, mask)
    boundary = torch.zeros_like(batch.values)
    for row, column in starts.nonzero().tolist():
        boundary[row, ids[row, column]] = batch.values[row, column]
    close(result.advantages, reference.segment_advantages(boundary, batch.outcomes, ids, mask))
    assert result.returns is None
    elsewhere = batch.values.masked_fill(~starts, NAN)
    assert torch.equal(SegmentMonteCarlo()(batch.replace(values=elsewhere)).advantages, result.advantages)


@FEWER
@given(rollouts())
def test_one_segment_is_a_single_stream_and_values_equal_to_the_score_are_no_signal(batch):
    one = batch.replace(segment_ids=torch.full_like(batch.segment_ids, 3))
    close(SegmentMonteCarlo()(one).advantages, SingleStream()(one).advantages)
    known = batch.replace(values=batch.outcomes[:, None].expand_as(batch.values))
    assert not SegmentMonteCarlo()(known).advantages.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_segments_keep_the_dtype_and_return_no_graph(dtype):
    values, scores = torch.tensor([[0.5, 0.25]], dtype=dtype), torch.tensor([1.0], dtype=dtype)
    got = segment_advantages(values.requires_grad_(), scores, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    assert got.dtype == dtype
    assert not got.requires_grad


@pytest.mark.parametrize(
    ("values", "scores", "ids", "message"),
    [
        ((2, 2), 2, [[0, 1, 1]] * 3, r"boundary_values has shape \(2, 2\), response_mask \(3, 3\)"),
        ((3, 2), 2, [[0, 1, 1]] * 3, r"scores has shape \(2,\), response_mask \(3, 3\)"),
        ((3,), 3, [[0, 1, 1]] * 3, r"boundary_values has shape \(3,\); expected 2 axes: batch segment"),
        ((3, 2), 3, [[0, 1]] * 3, r"segment_ids has shape \(3, 2\), response_mask \(3, 3\)"),
        ((3, 2), 3, [[0, 1, 2]] * 3, "boundary_values has 2 columns, but a response has 3 segments"),
        ((3, 9), 3, [[0, 2, 2]] * 3, "segment_ids must run 0, 1, ... over the trained tokens"),
        ((3, 9), 3, [[1, 1, 1]] * 3, "segment_ids must run 0, 1, ... over the trained tokens"),
        ((3, 9), 3, [[0, 1, 0]] * 3, "segment_ids must run 0, 1, ... over the trained tokens"),
    ],
)
def test_shapes_and_numbering_are_checked(unchecked_shapes, values, scores, ids, message):
    mask = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=f"segment_advantages: {message}"):
        segment_advantages(torch.zeros(values), torch.zeros(scores), torch.tensor(ids), mask)


def test_tracker_advantages_checks_shapes(unchecked_shapes):
    with pytest.raises(UsageError, match=r"tracker_advantages: baselines has shape \(3,\), scores \(2,\)"):
        tracker_advantages(torch.zeros(2), torch.zeros(3))


# --- CoRPO's diagnostic ---------------------------------------------------------------------------------------------


def test_the_floor_share_tells_which_responses_had_the_pass_mark_as_baseline():
    scores, mask = doubles(0.0, 0.4, 1.0, 0.0, NAN, 0.0, NAN), torch.ones(7, 1, dtype=torch.bool)
    batch = make(mask, scores, place_scores(scores, mask)).replace(group_ids=torch.tensor([3, 3, 1, 1, 1, 0, 8]))
    shares = CorrectnessRelative(min_correct=0.5).diagnostics(batch)
    assert {name: x.tolist() for name, x in shares.items()} == {"floor_share": [1.0, 1.0, 0.0, 0.0, 1.0]}
    assert not CorrectnessRelative(min_correct=0.0).diagnostics(batch)["floor_share"].any()
    assert not CorrectnessRelative().diagnostics(batch.replace(scores=torch.full((7,), NAN)))["floor_share"].numel()


@FEWER
@given(rollouts(), st.floats(-2, 2))
def test_the_floor_share_agrees_with_the_advantages(batch, mark):
    part = CorrectnessRelative(min_correct=mark)
    floor = part.diagnostics(batch)["floor_share"].bool()
    scored = ~batch.scores.isnan()
    advantages = correctness_relative(batch.outcomes, batch.group_ids, min_correct=mark)[scored]
    close(advantages[floor], (batch.outcomes[scored] - mark)[floor])
