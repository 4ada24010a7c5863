"""The batch: rows are chosen, cut, joined and trimmed without any other row or column noticing."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import AXES, SOURCES, RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.masked import keep
from rl4llm.testing.strategies import masks, rollouts


def with_gates(batch):
    """The batch with two gates, whose slices differ."""
    return batch.replace(gates=torch.stack([batch.response_mask, ~batch.response_mask]))


def same(a, b):
    assert set(a.tensors()) == set(b.tensors())
    for name, tensor in a.tensors().items():
        torch.testing.assert_close(tensor, getattr(b, name), rtol=0, atol=0, equal_nan=True)


def with_columns(batch, prompt, time):
    """The batch with padding columns on the left of the prompts and on the right of the responses."""
    sides = {"prompt": (prompt, 0), "time": (0, time)}
    changes = {}
    for name, tensor in batch.tensors().items():
        pads = [side for axis in reversed(AXES[name]) for side in sides.get(axis, (0, 0))]
        changes[name] = torch.nn.functional.pad(tensor, pads)
    return batch.replace(**changes)


@given(rollouts(), st.data())
def test_select_gives_the_rows_asked_for_in_that_order(batch, data):
    batch = with_gates(batch)
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=6))
    chosen = batch.select(torch.tensor(rows, dtype=torch.long))
    assert len(chosen) == len(rows)
    for name, tensor in batch.tensors().items():
        axis = AXES[name].index("batch")
        for i, row in enumerate(rows):
            got, expected = getattr(chosen, name).select(axis, i), tensor.select(axis, row)
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@given(rollouts(), st.data())
def test_select_by_truth_value_is_select_by_index(batch, data):
    wanted = data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch)))
    index = torch.tensor([i for i, w in enumerate(wanted) if w], dtype=torch.long)
    same(batch.select(torch.tensor(wanted)), batch.select(index))


@given(rollouts(), st.data())
def test_the_pieces_of_a_split_join_to_the_batch(batch, data):
    cut = data.draw(st.integers(0, len(batch)))
    batch = with_gates(batch)
    pieces = batch.split([cut, len(batch) - cut])
    assert [len(piece) for piece in pieces] == [cut, len(batch) - cut]
    same(RolloutBatch.cat(pieces), batch)


@given(rollouts())
def test_a_split_must_cover_the_batch(batch):
    with pytest.raises(UsageError, match=rf"sizes sum to {len(batch) + 1}, the batch has {len(batch)} rows"):
        batch.split([1, len(batch)])


@given(rollouts(critics=2), rollouts(critics=2))
def test_joined_batches_keep_every_row_under_padding(first, second):
    first, second = (with_gates(batch).replace(policy_version=None) for batch in (first, second))
    joined = RolloutBatch.cat([first, second])
    head, tail = joined.split([len(first), len(second)])
    same(head.trim(), first.trim())
    same(tail.trim(), second.trim())
    time = max(first.response_mask.shape[1], second.response_mask.shape[1])
    assert joined.response_mask.shape == (len(first) + len(second), time)
    assert joined.lengths.tolist() == first.lengths.tolist() + second.lengths.tolist()


@given(rollouts(critics=1), st.integers(1, 3))
def test_joining_pads_prompts_on_the_left_and_responses_on_the_right(batch, columns):
    joined = RolloutBatch.cat([batch, with_columns(batch, columns, columns)])
    assert not joined.prompt_mask[:, :columns].any()
    assert torch.equal(joined.prompt_mask[:, columns:], batch.prompt_mask.repeat(2, 1))
    assert not joined.response_mask[:, -columns:].any()


@given(rollouts())
def test_a_field_that_one_batch_lacks_is_left_out_of_the_whole(batch):
    joined = RolloutBatch.cat([batch, batch.replace(values=None)])
    assert joined.values is None
    assert joined.critic_values is not None


def test_nothing_cannot_be_joined():
    with pytest.raises(UsageError, match=r"RolloutBatch\.cat: needs at least one batch"):
        RolloutBatch.cat([])


@given(rollouts(), st.integers(0, 3), st.integers(0, 3))
def test_trim_undoes_padding_and_touches_no_trained_token(batch, prompt, time):
    trimmed = with_columns(batch, prompt, time).trim()
    same(trimmed, batch.trim())
    same(trimmed.trim(), trimmed)
    assert trimmed.prompt_mask.shape[1] == batch.prompt_mask.sum(-1).max()
    width = max(1, max(([t for t, m in enumerate(row) if m] or [-1])[-1] + 1 for row in batch.response_mask.tolist()))
    assert trimmed.response_mask.shape[1] == width
    for name, tensor in trimmed.tensors().items():
        if "time" in AXES[name]:
            columns = getattr(batch, name).narrow(AXES[name].index("time"), 0, width)
            torch.testing.assert_close(tensor, columns, rtol=0, atol=0, equal_nan=True)


@given(rollouts())
def test_a_batch_without_rows_goes_through_every_method(batch):
    nobody = RolloutBatch.empty_like(with_gates(batch))
    assert len(nobody) == 0
    assert nobody.tensors().keys() == with_gates(batch).tensors().keys()
    assert nobody.prompt_mask.shape[1:] == batch.prompt_mask.shape[1:]
    assert nobody.response_mask.shape[1:] == batch.response_mask.shape[1:]
    assert nobody.widths.shape == nobody.lengths.shape == nobody.outcomes.shape == (0,)
    assert nobody.scored_mask.shape == nobody.response_mask.shape
    same(nobody.select(torch.zeros(0, dtype=torch.bool)), nobody)
    same(nobody.split([0, 0])[1], nobody)
    same(RolloutBatch.cat([nobody, nobody]), nobody)
    same(RolloutBatch.cat([nobody.trim(), with_gates(batch), nobody]), with_gates(batch))
    assert RolloutBatch.empty_like(nobody.trim()).response_mask.shape == (0, 0)


@given(rollouts())
def test_trim_of_no_rows_and_of_empty_rows_is_fine(batch):
    nobody = batch.select(torch.zeros(len(batch), dtype=torch.bool)).trim()
    assert len(nobody) == 0
    silent = batch.replace(response_mask=torch.zeros_like(batch.response_mask)).trim()
    assert silent.response_mask.shape == (len(batch), 1)
    mute = batch.replace(prompt_mask=torch.zeros_like(batch.prompt_mask)).trim()
    assert mute.prompt_ids.shape == (len(batch), 0)


@given(rollouts())
def test_to_moves_every_tensor_and_casts_none(batch):
    moved = batch.to("meta")
    for name, tensor in moved.tensors().items():
        assert tensor.device.type == "meta"
        assert tensor.dtype == getattr(batch, name).dtype
        assert tensor.shape == getattr(batch, name).shape
    assert len(moved) == len(batch)
    same(batch.to("cpu", non_blocking=True), batch)


def test_every_field_that_the_library_can_miss_has_a_provider():
    batch = _small()
    for name, source in [
        ("values", "value source"),
        ("critic_values", "ensemble of critics"),
        ("ref_log_probs", "reference policy"),
        ("entropies", "rollout engine that reports them"),
        ("advantages", "advantage estimator"),
        ("returns", "value targets"),
    ]:
        with pytest.raises(UsageError, match=rf"Somebody needs {name}, which this batch does not hold; .*{source}"):
            batch.require("rewards", name, by="Somebody")
    for name in SOURCES:
        with pytest.raises(UsageError, match=rf"^Somebody needs {name}, which .* it comes from \w+ \w+.*\.$"):
            batch.require(name, by="Somebody")


def test_what_a_batch_may_lack_says_who_gives_it():
    assert set(SOURCES) == {field.name for field in fields(RolloutBatch) if field.default is None}
    engine = {name for name, source in SOURCES.items() if source == "engine"}
    assert engine == {"entropies", "top_ids", "top_log_probs", "policy_version"}


def test_the_axes_of_a_field_are_those_of_its_annotation():
    assert set(AXES) == {field.name for field in fields(RolloutBatch)}
    assert AXES["prompt_ids"] == ("batch", "prompt")
    assert AXES["rewards"] == AXES["values"] == ("batch", "time")
    assert AXES["critic_values"] == ("critic", "batch", "time")
    assert AXES["gates"] == ("gate", "batch", "time")
    assert AXES["top_ids"] == ("batch", "time", "top")
    assert AXES["policy_version"] == AXES["value_weights"] == ("batch",)


@given(rollouts())
def test_require_gives_the_fields_in_the_order_asked(batch):
    values, rewards = batch.require("values", "rewards", by="test")
    assert values is batch.values
    assert rewards is batch.rewards


def _small(**changes):
    zeros = torch.zeros(2, 3)
    fields = {
        "prompt_ids": torch.zeros(2, 4, dtype=torch.long),
        "prompt_mask": torch.ones(2, 4, dtype=torch.bool),
        "response_ids": torch.zeros(2, 3, dtype=torch.long),
        "response_mask": torch.tensor([[True, False, True], [False, False, False]]),
        "group_ids": torch.tensor([0, 1]),
        "prompt_uids": torch.tensor([0, 1]),
        "scores": torch.tensor([1.0, 2.0]),
        "truncated": torch.tensor([False, True]),
        "rewards": zeros,
        "rollout_log_probs": zeros,
        "old_log_probs": zeros,
    }
    return RolloutBatch(**{**fields, **changes})


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("rewards", torch.zeros(2, 4), r"rewards has shape \(2, 4\); expected \(batch=2, time=3\)\.$"),
        ("scores", torch.zeros(3), r"scores has shape \(3,\); expected \(batch=2\)\.$"),
        ("values", torch.zeros(1, 3), r"values has shape \(1, 3\); expected \(batch=2, time=3\)"),
        ("values", torch.zeros(2), r"values has shape \(2,\); expected \(batch=2, time=3\)"),
        ("prompt_ids", torch.zeros(2, 5, dtype=torch.long), r"\(2, 5\); expected \(batch=2, prompt=4\)"),
        ("critic_values", torch.zeros(5, 2, 4), r"\(5, 2, 4\); expected \(critic, batch=2, time=3\)"),
        ("gates", torch.zeros(2, 3, dtype=torch.bool), r"gates has shape \(2, 3\); expected \(gate, batch=2, time=3\)"),
        ("top_ids", torch.zeros(2, 4, 1, dtype=torch.long), r"\(2, 4, 1\); expected \(batch=2, time=3, top\)"),
        (
            "response_mask",
            torch.ones(2, dtype=torch.bool),
            r"response_mask has shape \(2,\); expected 2 axes: batch time",
        ),
        ("response_mask", torch.ones(2, 3), r"response_mask must be a bool tensor, got torch\.float32"),
        ("prompt_mask", torch.ones(2, 4, dtype=torch.long), "prompt_mask must be a bool tensor"),
    ],
)
def test_a_field_of_another_shape_is_named(unchecked_shapes, field, wrong, message):
    with pytest.raises(UsageError, match=message):
        _small(**{field: wrong})


def test_fields_with_an_axis_of_one_name_have_one_size(unchecked_shapes):
    with pytest.raises(UsageError, match=r"top_log_probs has shape \(2, 3, 4\); expected \(batch=2, time=3, top=5\)"):
        _small(top_ids=torch.zeros(2, 3, 5, dtype=torch.long), top_log_probs=torch.zeros(2, 3, 4))


def test_a_batch_cannot_be_changed_in_place():
    batch = _small()
    with pytest.raises(FrozenInstanceError):
        batch.values = batch.rewards
    changed = batch.replace(values=batch.rewards)
    assert batch.values is None
    assert changed.values is batch.rewards


@given(masks(max_time=9))
def test_lengths_count_trained_tokens_and_widths_reach_the_last(mask):
    batch = _like(mask)
    assert batch.lengths.tolist() == [sum(row) for row in mask.tolist()]
    assert batch.widths.tolist() == [max((t + 1 for t, m in enumerate(row) if m), default=0) for row in mask.tolist()]


def _like(mask, scores=None):
    rows, time = mask.shape
    zeros = torch.zeros(rows, time)
    return _small(
        prompt_ids=torch.zeros(rows, 4, dtype=torch.long),
        prompt_mask=torch.ones(rows, 4, dtype=torch.bool),
        response_ids=zeros.long(),
        response_mask=mask,
        group_ids=torch.arange(rows),
        prompt_uids=torch.arange(rows),
        scores=torch.zeros(rows) if scores is None else scores,
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )


def test_a_batch_without_columns_has_no_width():
    batch = _like(torch.zeros(2, 0, dtype=torch.bool))
    assert batch.widths.tolist() == [0, 0]
    assert batch.lengths.tolist() == [0, 0]


@given(rollouts())
def test_the_scored_mask_is_the_response_mask_of_scored_rows(batch):
    expected = [
        [m and s == s for m in row] for row, s in zip(batch.response_mask.tolist(), batch.scores.tolist(), strict=True)
    ]
    assert batch.scored_mask.tolist() == expected


@given(rollouts())
def test_outcomes_are_scores_plus_the_shaping_of_trained_tokens(batch):
    shaping = torch.where(batch.response_mask, batch.values, torch.nan)
    shaped = batch.replace(rewards=place_scores(batch.scores, batch.response_mask) + shaping)
    for row in range(len(batch)):
        own = [v for v, m in zip(batch.values[row].tolist(), batch.response_mask[row].tolist(), strict=True) if m]
        expected = batch.scores[row] + (sum(own) if not batch.scores[row].isnan() else 0.0)
        torch.testing.assert_close(shaped.outcomes[row], expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@given(rollouts(unscorable=False))
def test_a_response_without_trained_tokens_keeps_its_score_as_its_outcome(batch):
    batch = batch.replace(response_mask=torch.zeros_like(batch.response_mask))
    assert torch.equal(batch.outcomes, batch.scores)


@given(rollouts())
def test_the_score_stands_at_the_last_trained_token_and_nowhere_else(batch):
    placed = place_scores(batch.scores, batch.response_mask)
    for row, mask in enumerate(batch.response_mask.tolist()):
        trained = [t for t, m in enumerate(mask) if m]
        expected = [0.0] * len(mask)
        if trained and not batch.scores[row].isnan():
            expected[trained[-1]] = batch.scores[row].item()
        assert placed[row].tolist() == expected


@given(rollouts(), st.integers(1, 4))
def test_the_place_of_a_score_does_not_depend_on_the_width(batch, columns):
    wider = torch.nn.functional.pad(batch.response_mask, (0, columns))
    placed = place_scores(batch.scores, wider)
    assert torch.equal(placed[:, :-columns], place_scores(batch.scores, batch.response_mask))
    assert not placed[:, -columns:].any()
    scored = keep(batch.scores, batch.scored_mask.any(-1))
    assert torch.equal(placed.sum(-1), scored)


def test_scores_must_match_the_rows(unchecked_shapes):
    with pytest.raises(UsageError, match=r"scores has shape \(3,\), response_mask \(2, 3\); pass one entry per"):
        place_scores(torch.zeros(3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match="place_scores: response_mask must be a bool tensor"):
        place_scores(torch.zeros(2), torch.ones(2, 3))
