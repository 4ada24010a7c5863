"""Laws of the stores of earlier responses: what they keep, what they give back, and that nothing else changes."""

import io
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.batch import SOURCES, RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.replay import FIFOReplay, ReplaySpec, SuccessReplay
from rl4llm.testing.reference.offpolicy import loop_fifo, loop_success
from rl4llm.testing.strategies import rollouts

fresh = rollouts(shaped=False).map(lambda batch: batch.replace(replayed=torch.zeros_like(batch.truncated)))
FEWER = settings(max_examples=settings.default.max_examples // 3)  # several whole batches are slow to draw
FORGOTTEN = [name for name, source in SOURCES.items() if source not in ("engine", "replay")]
specs = st.one_of(
    st.builds(
        FIFOReplay,
        capacity=st.integers(1, 9),
        share=st.sampled_from([0.2, 0.5, 0.8]),
        max_age=st.one_of(st.none(), st.integers(1, 3)),
    ),
    st.builds(SuccessReplay, per_prompt=st.integers(1, 3), share=st.sampled_from([0.2, 1 / 3, 0.9])),
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(a, b):
    """Equal field by field, bit for bit."""
    assert set(a.tensors()) == set(b.tensors())
    for name, tensor in a.tensors().items():
        torch.testing.assert_close(tensor, getattr(b, name), rtol=0, atol=0, equal_nan=True, msg=name)


@st.composite
def histories(draw, most=4):
    """Batches in the order of their steps; the first response token of every row is its name."""
    batches = draw(st.lists(fresh, min_size=1, max_size=most))
    return [b.replace(response_ids=b.response_ids + 100 * step) for step, b in enumerate(batches)]


def label(rows):
    """The names of the rows."""
    return rows.response_ids[:, 0].tolist()


def filled(spec, history):
    """A store to which the batches were added."""
    replay = spec.build()
    for batch in history:
        replay.add(batch)
    return replay


def small(scores, groups=None, uids=None, first=0, **changes):
    """Responses of two tokens to distinct prompts, whose names count from `first`."""
    batch = len(scores)
    mask, scores = torch.ones(batch, 2, dtype=torch.bool), torch.tensor(scores)
    log_probs = -torch.rand(batch, 2, generator=seeded(first))
    given = {
        "prompt_ids": torch.ones(batch, 1, dtype=torch.long),
        "prompt_mask": torch.ones(batch, 1, dtype=torch.bool),
        "response_ids": first + torch.arange(batch)[:, None].repeat(1, 2),
        "response_mask": mask,
        "group_ids": torch.arange(batch) if groups is None else torch.tensor(groups),
        "prompt_uids": torch.arange(batch) if uids is None else torch.tensor(uids),
        "scores": scores,
        "truncated": torch.zeros(batch, dtype=torch.bool),
        "rewards": place_scores(scores, mask),
        "rollout_log_probs": log_probs,
        "old_log_probs": log_probs - 0.1,
    }
    return RolloutBatch(**{**given, **changes})


# --- what is kept ---------------------------------------------------------------------------------------------------


@FEWER
@given(histories(), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 3)))
def test_fifo_keeps_what_a_list_would(history, capacity, max_age):
    replay = filled(FIFOReplay(capacity=capacity, max_age=max_age), history)
    added = []
    for batch in history:
        scored = batch.select(~batch.scores.isnan())
        groups = dict.fromkeys(scored.group_ids.tolist())
        added.append([label(scored.select(scored.group_ids == group)) for group in groups])
    assert [label(unit.rows) for unit in replay.units] == loop_fifo(added, capacity=capacity, max_age=max_age)
    assert len(replay) <= capacity


@FEWER
@given(histories(), st.integers(1, 3))
def test_success_replay_keeps_the_newest_successes_of_each_prompt(history, per_prompt):
    replay = filled(SuccessReplay(per_prompt=per_prompt), history)
    added = [list(zip(b.prompt_uids.tolist(), label(b), b.scores.tolist(), strict=True)) for b in history]
    kept = [name for unit in replay.units for name in label(unit.rows)]
    assert kept == loop_success(added, per_prompt=per_prompt)
    assert len(replay) == len(kept)
    assert all((unit.rows.scores > 0).all() for unit in replay.units)


def test_a_group_may_be_replayed_for_max_age_steps():
    replay = FIFOReplay(max_age=2).build()
    left = []
    for step in range(4):
        replay.add(small([float(step)], first=10 * step))
        left.append([label(unit.rows) for unit in replay.units])
    assert left == [[[0]], [[0], [10]], [[10], [20]], [[20], [30]]]


def test_the_oldest_groups_go_whole():
    replay = FIFOReplay(capacity=5).build()
    replay.add(small([0.0] * 3, groups=[7, 7, 7]))
    replay.add(small([0.0] * 3, groups=[7, 4, 7], first=10))
    assert [label(unit.rows) for unit in replay.units] == [[10, 12], [11]]
    replay.add(small([0.0] * 6, groups=[1] * 6, first=20))
    assert len(replay) == 0


@FEWER
@given(histories(), specs)
def test_rows_are_stored_small_and_without_what_depends_on_the_present(history, spec):
    traced = [b.replace(entropies=b.entropies.clone().requires_grad_() * 1) for b in history]
    for unit in filled(spec, traced).units:
        assert unit.rows.replayed is None
        assert all(getattr(unit.rows, name) is None for name in FORGOTTEN)
        same(unit.rows, unit.rows.trim())
        for name in ("entropies", "top_ids", "top_log_probs"):
            assert getattr(unit.rows, name) is not None
        for tensor in unit.rows.tensors().values():
            assert not tensor.requires_grad
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_what_was_replayed_or_could_not_be_scored_is_not_added():
    flags = torch.tensor([False, True, False])
    for spec in (FIFOReplay(), SuccessReplay()):
        replay = filled(spec, [small([1.0, 1.0, float("nan")], replayed=flags)])
        assert [label(unit.rows) for unit in replay.units] == [[0]]


def test_shaping_is_not_stored_because_it_is_charged_anew():
    batch = small([1.0, 0.5])
    replay = filled(FIFOReplay(), [batch.replace(rewards=batch.rewards - 0.25)])
    for unit in replay.units:
        assert torch.equal(unit.rows.rewards, place_scores(unit.rows.scores, unit.rows.response_mask))
        assert torch.equal(unit.rows.outcomes, unit.rows.scores)


def test_the_store_does_not_see_later_changes_of_the_batch():
    batch = small([1.0, 1.0])
    replay = filled(FIFOReplay(), [batch])
    before = batch.old_log_probs[0].clone()
    batch.old_log_probs.zero_()
    assert torch.equal(replay.units[0].rows.old_log_probs[0], before)


# --- what comes back ------------------------------------------------------------------------------------------------


@FEWER
@given(histories(), specs, fresh, st.integers(0, 99))
def test_fresh_rows_come_first_unchanged_and_replayed_ones_bit_for_bit(history, spec, fresh, seed):
    replay = filled(spec, history)
    copies = {name: tensor.clone() for name, tensor in fresh.tensors().items()}
    mixed = replay.mix(fresh, seeded(seed))
    head, tail = mixed.split([len(fresh), len(mixed) - len(fresh)])
    assert not head.replayed.any()
    assert tail.replayed.all()
    same(head.trim(), fresh.replace(**dict.fromkeys(set(fresh.tensors()) - set(mixed.tensors()))).trim())
    rows = [b.select(torch.tensor([i])) for b in history for i in range(len(b))]
    whole = {label(row)[0]: row for row in rows}
    for row in range(len(tail)):
        got = tail.select(torch.tensor([row])).trim()
        origin = whole[label(got)[0]].trim()
        for name in ("old_log_probs", "rollout_log_probs", "entropies", "top_log_probs", "scores", "rewards"):
            assert torch.equal(getattr(got, name), getattr(origin, name)), name
        assert torch.equal(got.response_mask, origin.response_mask)
        assert torch.equal(got.prompt_uids, origin.prompt_uids)
    for name, tensor in copies.items():
        torch.testing.assert_close(getattr(fresh, name), tensor, rtol=0, atol=0, equal_nan=True)


@FEWER
@given(histories(), specs, fresh, st.integers(0, 99))
def test_replayed_groups_are_the_stored_ones_under_new_names(history, spec, fresh, seed):
    replay = filled(spec, history)
    mixed = replay.mix(fresh, seeded(seed))
    tail = mixed.select(mixed.replayed)
    groups = {}
    for name, row in zip(tail.group_ids.tolist(), label(tail), strict=True):
        groups.setdefault(name, []).append(row)
    assert not set(groups) & set(fresh.group_ids.tolist())
    stored = [label(unit.rows) for unit in replay.units]
    assert all(group in stored for group in groups.values())
    drawn = [row for group in groups.values() for row in group]
    assert len(drawn) == len(set(drawn))
    if isinstance(spec, SuccessReplay):
        assert all(len(group) == 1 for group in groups.values())


@FEWER
@given(histories(), specs, fresh, st.integers(0, 99))
def test_the_share_is_met_to_the_nearest_unit_while_the_store_lasts(history, spec, fresh, seed):
    replay = filled(spec, history)
    count = int(replay.mix(fresh, seeded(seed)).replayed.sum())
    wanted, largest = len(fresh) * spec.share / (1 - spec.share), max([len(u.rows) for u in replay.units], default=0)
    assert count <= wanted + largest / 2 + 1e-9
    assert count == len(replay) or count >= wanted - largest / 2 - 1e-9


def test_one_replayed_to_two_fresh_and_one_to_one():
    store, fresh = [small([1.0] * 300)], small([0.0] * 100, first=1000)
    assert int(filled(SuccessReplay(), store).mix(fresh, seeded()).replayed.sum()) == 50
    assert int(filled(FIFOReplay(), store).mix(fresh, seeded()).replayed.sum()) == 100
    assert int(filled(FIFOReplay(share=0.0), store).mix(fresh, seeded()).replayed.sum()) == 0
    assert int(filled(FIFOReplay(share=0.9), store).mix(fresh, seeded()).replayed.sum()) == 300


def test_of_groups_that_do_not_fit_the_nearest_number_is_drawn():
    store = [small([0.0] * 12, groups=[i // 4 for i in range(12)])]
    counts = [
        int(filled(FIFOReplay(), store).mix(small([0.0] * n, first=100), seeded()).replayed.sum())
        for n in (1, 2, 5, 6, 9, 40)
    ]
    assert counts == [0, 4, 4, 8, 8, 12]


def test_every_prompt_gives_as_many_successes_however_many_it_has():
    """Stores of 50 and of 1: one of each, where drawing uniformly would give the second once in 25 draws."""
    replay = filled(SuccessReplay(), [small([1.0] * 51, uids=[0] * 50 + [1])])
    fresh, generator = small([0.0] * 4, first=100), seeded()
    for _ in range(20):
        mixed = replay.mix(fresh, generator)
        assert sorted(mixed.prompt_uids[mixed.replayed].tolist()) == [0, 1]


def test_successes_come_in_rounds_over_the_prompts():
    replay = filled(SuccessReplay(), [small([1.0] * 7, uids=[0, 0, 0, 0, 1, 1, 2])])
    generator, firsts = seeded(), torch.zeros(7)
    for _ in range(300):
        mixed = replay.mix(small([0.0] * 12, first=100), generator)  # six of them
        drawn = mixed.prompt_uids[mixed.replayed].tolist()
        assert sorted(drawn[:3]) == [0, 1, 2]
        assert sorted(drawn[3:5]) == [0, 1]
        assert drawn[5:] == [0]
        firsts[label(mixed.select(mixed.replayed))[drawn.index(0)]] += 1
    assert ((firsts[:4] - 75).abs() < 40).all()  # standard deviation 7.5


def test_every_stored_row_is_as_likely_as_any_other():
    replay = filled(SuccessReplay(), [small([1.0] * 6, uids=[0, 1, 2, 3, 4, 5])])
    fresh, generator, counts = small([0.0] * 4, first=100), seeded(), torch.zeros(6)
    for _ in range(900):
        mixed = replay.mix(fresh, generator)
        counts[torch.tensor(label(mixed.select(mixed.replayed)))] += 1
    # 2 of 6 in 900 draws: 300 each, standard deviation 14
    assert ((counts - 300).abs() < 60).all()


def test_an_empty_store_adds_nothing_but_says_so():
    fresh = small([0.0, 1.0])
    for spec in (FIFOReplay(), SuccessReplay()):
        mixed = spec.build().mix(fresh, seeded())
        same(mixed, fresh.replace(replayed=torch.zeros(2, dtype=torch.bool)))


def test_no_fresh_rows_bring_no_replayed_ones():
    replay = filled(FIFOReplay(), [small([1.0])])
    assert len(replay.mix(small([1.0]).select(torch.tensor([], dtype=torch.long)), seeded())) == 0


def test_a_second_store_keeps_the_flags_of_the_first():
    first, second = (filled(FIFOReplay(), [small([1.0], first=n)]) for n in (10, 20))
    mixed = second.mix(first.mix(small([0.0]), seeded()), seeded())
    assert label(mixed) == [0, 10, 20]
    assert mixed.replayed.tolist() == [False, True, True]
    assert len(set(mixed.group_ids.tolist())) == 3


def test_a_replayed_row_keeps_the_version_of_the_policy_that_drew_it():
    replay = filled(FIFOReplay(), [small([1.0], policy_version=torch.tensor([3]))])
    mixed = replay.mix(small([1.0], first=10, policy_version=torch.tensor([5])), seeded())
    assert mixed.policy_version.tolist() == [5, 3]


def test_a_field_that_fresh_or_replayed_rows_lack_is_left_out():
    replay = filled(FIFOReplay(), [small([1.0])])
    mixed = replay.mix(small([1.0], entropies=torch.ones(1, 2)), seeded())
    assert mixed.entropies is None


@FEWER
@given(histories(), specs, fresh, st.integers(0, 99))
def test_the_generator_alone_decides(history, spec, fresh, seed):
    replay, state = filled(spec, history), torch.get_rng_state()
    mixed = replay.mix(fresh, seeded(seed))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(seed + 1)
    same(replay.mix(fresh, seeded(seed)), mixed)


def test_another_generator_draws_others():
    replay = filled(SuccessReplay(), [small([1.0] * 100)])
    fresh = small([0.0] * 20, first=1000)
    draws = {tuple(label(replay.mix(fresh, seeded(seed)))) for seed in range(5)}
    assert len(draws) == 5


# --- state ----------------------------------------------------------------------------------------------------------


@FEWER
@given(histories(), histories(most=2), specs, fresh, st.integers(0, 99))
def test_a_restored_store_goes_on_as_the_saved_one_would_have(history, later, spec, fresh, seed):
    replay, copy, file = filled(spec, history), spec.build(), io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    copy.load_state_dict(torch.load(file, weights_only=True))
    same(copy.mix(fresh, seeded(seed)), replay.mix(fresh, seeded(seed)))
    for batch in later:
        copy.add(batch)
        replay.add(batch)
    assert [unit.age for unit in copy.units] == [unit.age for unit in replay.units]
    same(copy.mix(fresh, seeded(seed)), replay.mix(fresh, seeded(seed)))


def test_an_empty_store_is_saved_and_restored():
    copy = filled(FIFOReplay(), [small([1.0])])
    copy.load_state_dict(FIFOReplay().build().state_dict())
    assert len(copy) == 0


def test_saving_does_not_tie_two_stores_together():
    replay, copy = filled(FIFOReplay(), [small([1.0])]), FIFOReplay().build()
    copy.load_state_dict(replay.state_dict())
    replay.add(small([1.0], first=10))
    assert (len(replay), len(copy)) == (2, 1)


# --- errors and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [FIFOReplay(), SuccessReplay()])
def test_log_probs_of_the_engine_are_needed_where_the_policy_learned(spec):
    log_probs = torch.tensor([[-1.0, float("nan")]] * 2)
    mask = torch.tensor([[True, True], [True, False]])
    batch = small([float("nan"), 1.0], rollout_log_probs=log_probs, response_mask=mask)
    assert len(filled(spec, [batch])) == 1  # of a response that could not be scored nothing is asked
    with pytest.raises(
        UsageError, match=rf"^{type(spec).__name__}: .*replay needs the log-probs of the policy.*[^\n]$"
    ):
        filled(spec, [batch.replace(scores=torch.tensor([0.0, 1.0]))])


def test_successes_need_prompts_with_an_identity():
    batch = small([0.0, 1.0], uids=[-1, 3])
    with pytest.raises(UsageError, match=r"^SuccessReplay: a prompt has no identity .*FIFOReplay\.$"):
        filled(SuccessReplay(), [batch])
    assert len(filled(FIFOReplay(), [batch])) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FIFOReplay(capacity=0), "FIFOReplay: capacity must be a whole number of at least 1, got 0"),
        (lambda: FIFOReplay(max_age=0), "FIFOReplay: max_age must be a whole number of at least 1, got 0"),
        (lambda: FIFOReplay(share=1.0), r"FIFOReplay: share must be in \[0, 1\), got 1.0"),
        (lambda: SuccessReplay(per_prompt=0), "SuccessReplay: per_prompt must be a whole number"),
        (lambda: SuccessReplay(share=-0.1), r"SuccessReplay: share must be in \[0, 1\), got -0.1"),
    ],
)
def test_values_are_checked_at_construction(build, message):
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize("spec", [FIFOReplay(capacity=7, share=0.2, max_age=3), SuccessReplay(per_prompt=7, share=0.2)])
def test_a_choice_of_replay_is_a_frozen_value(spec):
    assert isinstance(spec, ReplaySpec)
    assert isinstance(spec.paper, str)
    assert eval(repr(spec)) == spec
    assert hash(spec) == hash(eval(repr(spec)))
    with pytest.raises(FrozenInstanceError):
        spec.share = 0.1
    assert list(spec.build().parameters()) == []
