"""The Beta tracker: laws of its update, and the value source that keeps it by prompt."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import BetaTracker, beta_tracker_update
from rl4llm.testing.reference import values as reference
from tests.critics.helpers import NAN, Survey, World, batch_of, doubles, unsurveyed

counts, scores = st.floats(0.01, 100), st.floats(0, 1)
divergences = st.one_of(st.floats(0, 0.05), st.floats(0, 10), st.just(math.inf))


@given(counts, counts, scores, divergences, st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 10))
def test_counts_are_the_moving_average_with_alpha_plus_beta_observations(a, b, r, d, first, second, half_life):
    low, high = sorted((first, second))
    got = beta_tracker_update(a, b, r, d, half_life=half_life, rho_min=low, rho_max=high)
    assert got == pytest.approx(reference.beta_tracker_update(a, b, r, d, half_life, low, high), rel=1e-9, abs=1e-9)
    assert 0 <= got[0] / (got[0] + got[1]) <= 1


@given(st.lists(st.tuples(counts, counts, scores, divergences), min_size=1, max_size=5))
def test_tensors_are_numbers_side_by_side(rows):
    alphas, betas = beta_tracker_update(*doubles(*rows).T)
    for got, row in zip(zip(alphas.tolist(), betas.tolist(), strict=True), rows, strict=True):
        assert got == pytest.approx(beta_tracker_update(*row), rel=1e-12)
    mixed = beta_tracker_update(doubles(*rows).T[0], 0.5, 1.0, 0.0)
    assert mixed[0].shape == mixed[1].shape == (len(rows),)


@pytest.mark.parametrize(("rho", "window"), [(0.875, 8.0), (0.96, 25.0)])
def test_the_number_of_observations_tends_to_the_window(rho, window):
    alpha = beta = 0.5
    for step in range(1000):
        alpha, beta = beta_tracker_update(alpha, beta, float(step % 2), 0.0, rho_min=rho, rho_max=rho)
    assert alpha + beta == pytest.approx(window, rel=1e-9)


@given(st.lists(scores, min_size=1, max_size=20), counts, counts)
def test_without_forgetting_it_is_the_running_mean_with_a_prior(observed, a, b):
    alpha, beta = a, b
    for score in observed:
        alpha, beta = beta_tracker_update(alpha, beta, score, 1.0, rho_min=1.0, rho_max=1.0)
    assert alpha / (alpha + beta) == pytest.approx((a + sum(observed)) / (a + b + len(observed)))


def test_hand_computed_updates():
    # ρ = 2^(−0.006/0.06) = 0.9330 is between the bounds; 0 and 1 are not.
    assert beta_tracker_update(2.0, 6.0, 1.0, 0.006) == pytest.approx((2 * 2**-0.1 + 1, 6 * 2**-0.1))
    assert beta_tracker_update(2.0, 6.0, 0.25, 0.0) == pytest.approx((2 * 0.96 + 0.25, 6 * 0.96 + 0.75))
    assert beta_tracker_update(2.0, 6.0, 0.0, 1.0) == pytest.approx((2 * 0.875, 6 * 0.875 + 1))


def test_unscored_observations_change_nothing():
    alpha, beta = beta_tracker_update(doubles(1, 2), doubles(3, 4), doubles(NAN, 1), doubles(NAN, 0))
    torch.testing.assert_close(alpha, doubles(1, 2 * 0.96 + 1))
    torch.testing.assert_close(beta, doubles(3, 4 * 0.96))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_keeps_the_dtype_and_returns_no_graph(dtype):
    given = [torch.tensor([0.5], dtype=dtype, requires_grad=True) for _ in range(4)]
    for result in beta_tracker_update(*given):
        assert result.dtype == dtype
        assert not result.requires_grad


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        ((0.0, 0.0, 1.0, 0.0), {}, "alpha and beta must be finite, at least 0 and not both 0"),
        ((-0.1, 1.0, 1.0, 0.0), {}, "alpha and beta"),
        ((1.0, -0.1, 1.0, 0.0), {}, "alpha and beta"),
        ((math.inf, 1.0, 1.0, 0.0), {}, "alpha and beta"),
        ((1.0, 1.0, 1.1, 0.0), {}, r"score must be in \[0, 1\], got 1.1"),
        ((1.0, 1.0, -0.1, 0.0), {}, r"score must be in \[0, 1\], got -0.1"),
        ((1.0, 1.0, 1.0, -0.1), {}, "divergence must be at least 0"),
        ((1.0, 1.0, 1.0, NAN), {}, "divergence must be at least 0"),
        ((1.0, 1.0, 1.0, 0.0), {"half_life": 0.0}, r"half_life must be in \(0, inf\]"),
        ((1.0, 1.0, 1.0, 0.0), {"rho_min": -0.1}, r"rho_min must be in \[0, 1\]"),
        ((1.0, 1.0, 1.0, 0.0), {"rho_max": 1.1}, r"rho_max must be in \[0.875, 1\]"),
        ((1.0, 1.0, 1.0, 0.0), {"rho_max": 0.5}, r"rho_max must be in \[0.875, 1\]"),
    ],
)
def test_numbers_outside_their_domain_are_one_line(numbers, options, message):
    with pytest.raises(UsageError, match=f"beta_tracker_update: {message}"):
        beta_tracker_update(*numbers, **options)


def test_shapes_are_checked(unchecked_shapes):
    with pytest.raises(UsageError, match=r"beta_tracker_update: beta has shape \(3,\), alpha \(2,\)"):
        beta_tracker_update(torch.ones(2), torch.ones(3), torch.ones(2), torch.ones(2))


# --- the value source -----------------------------------------------------------------------------------------------


def tracker(**options):
    return BetaTracker(**{"samples": 0, **options}).build("policy")


def rates(source, *uids):
    """v̂ of the prompts, as the first token of a response sees it."""
    return source.values(batch_of(list(uids), [0.0] * len(uids)), World().context).values[:, 0].tolist()


def pair(source, uid):
    """α and β of a prompt that was seen."""
    state = source.get_extra_state()
    return state["counts"][:, state["uids"].tolist().index(uid)].tolist()


def test_the_survey_is_smoothed_and_counts_as_one_window():
    survey, source = Survey({4: [1.0, 1.0, 1.0], 2: [0.0, NAN, 1.0, 0.0], 8: [NAN]}), tracker(samples=3, cache="c")
    for _ in range(2):
        source.prepare(survey)
    assert survey.calls == [(3, "c")]
    assert pair(source, 4) == pytest.approx([8 * 3.5 / 4, 8 * 0.5 / 4])
    assert pair(source, 2) == pytest.approx([8 * 1.5 / 4, 8 * 2.5 / 4])
    assert rates(source, 2, 4, 8, 100) == pytest.approx([0.375, 0.875, 0.5, 0.5])


def test_no_survey_is_asked_without_samples_or_of_bad_scores():
    source = tracker()
    source.prepare(unsurveyed)
    assert rates(source, 1) == [0.5]
    with pytest.raises(UsageError, match=r"BetaTracker: scores must be in \[0, 1\], got 2.0"):
        tracker(samples=1).prepare(Survey({1: [2.0]}))


def test_values_are_zero_where_nothing_is_trained_and_learning_needs_no_gradient():
    batch = batch_of([1, 2], [1.0, 0.0], mask=[[1, 0, 1], [0, 0, 0]])
    assert tracker().values(batch, World().context).values.tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    assert not tracker().learners


def test_the_first_visit_keeps_the_most():
    source, world = tracker(), World()
    source.learn(batch_of([5, 3], [1.0, 0.0]), world.context)
    assert pair(source, 5) == pytest.approx([0.5 * 0.96 + 1, 0.5 * 0.96])
    assert pair(source, 3) == pytest.approx([0.5 * 0.96, 0.5 * 0.96 + 1])


def test_later_visits_discount_by_how_far_the_policy_moved_on_the_stored_response():
    source, world = tracker(), World()
    source.learn(batch_of([5, 3], [1.0, 1.0], ids=[[1, 2, 3], [4, 5, 6]], mask=[[1, 0, 1], [1, 1, 1]]), world.context)
    # On the stored tokens 1 and 3 of prompt 5 log π moves by −0.002 and +0.010; the masked 2 does not count.
    moves = torch.tensor([0.0, -0.002, 99.0, 0.010, 0.0, 0.0, 0.0, 0.0])
    world.log_probs = lambda batch: -batch.response_ids.double() + moves[batch.response_ids.clamp(max=7)].double()
    source.learn(batch_of([5], [0.0], ids=[[7, 7]], mask=[[1, 1]]), world.context)
    rho, alpha, beta = 2 ** (-0.006 / 0.06), 0.5 * 0.96 + 1, 0.5 * 0.96
    assert pair(source, 5) == pytest.approx([rho * alpha, rho * beta + 1])
    assert pair(source, 3) == pytest.approx([alpha, beta])
    asked, stored = world.read[-2:]
    assert asked.prompt_ids.tolist() == [[5]]
    assert asked.response_ids.tolist() == [[1, 2, 3]]
    assert asked.response_mask.tolist() == [[True, False, True]]
    assert stored.response_ids.tolist() == [[7, 7]]
    # Now the response 7 7 is the stored one, with its log-probs of then.
    world.log_probs = lambda batch: -batch.response_ids.double() - 5.0
    source.learn(batch_of([5], [1.0]), world.context)
    assert world.read[-2].response_ids.tolist() == [[7, 7]]
    assert pair(source, 5) == pytest.approx([0.875 * rho * alpha + 1, 0.875 * (rho * beta + 1)])


def test_several_responses_of_a_prompt_add_up_and_discount_once():
    source, world = tracker(), World()
    source.learn(batch_of([1, 2, 1, 1, 1], [1.0, 0.0, 0.0, NAN, 0.5]), world.context)
    assert pair(source, 1) == pytest.approx([0.5 * 0.96 + 1.5, 0.5 * 0.96 + 1.5])
    assert pair(source, 2) == pytest.approx([0.5 * 0.96, 0.5 * 0.96 + 1])


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, NAN])), min_size=1, max_size=8), st.data())
def test_the_order_of_a_batch_does_not_matter(rows, data):
    order, sources = data.draw(st.permutations(rows)), [tracker(), tracker()]
    for source, drawn in zip(sources, (rows, order), strict=True):
        source.learn(batch_of([uid for uid, _ in drawn], [score for _, score in drawn]), World().context)
    assert rates(sources[0], *range(5)) == pytest.approx(rates(sources[1], *range(5)), rel=1e-12)
    assert not [
        uid for uid in range(4) if rates(sources[0], uid) == [0.5] and (uid, 1.0) in rows and (uid, 0.0) not in rows
    ]


def test_unscored_and_replayed_responses_are_not_counted():
    source, world = tracker(), World()
    source.learn(batch_of([1, 2], [NAN, NAN]), world.context)
    assert not world.read
    source.learn(batch_of([1, 2], [1.0, 1.0], replayed=torch.tensor([True, False])), world.context)
    assert rates(source, 1) == [0.5]
    assert rates(source, 2)[0] > 0.5
    assert [batch.prompt_uids.tolist() for batch in world.read] == [[2]]


def test_a_response_without_trained_tokens_counts_but_is_not_stored():
    source, world = tracker(), World()
    source.learn(batch_of([1], [1.0], mask=[[1, 1, 1]]), world.context)
    source.learn(batch_of([1], [1.0], mask=[[0, 0, 0]]), world.context)
    assert pair(source, 1)[0] == pytest.approx((0.5 * 0.96 + 1) * 0.96 + 1)
    assert source.last.rows([1]).response_mask.tolist() == [[True, True, True]]


def test_the_newest_response_of_a_prompt_is_stored_without_padding():
    source, world = tracker(), World()
    batch = batch_of([1, 1, 2], [1.0, 0.0, 1.0], ids=[[1, 1, 1, 0], [2, 3, 0, 0], [4, 0, 0, 0]],
                     mask=[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])  # fmt: skip
    source.learn(batch, world.context)
    (read,) = world.read
    assert read.response_ids.tolist() == [[2, 3, 0, 0], [4, 0, 0, 0]]
    kept = source.last.rows([1, 2])
    assert kept.response_ids.tolist() == [[2, 3], [4, 0]]
    assert kept.old_log_probs.tolist() == [[-2.0, -3.0], [-4.0, 0.0]]
    assert kept.prompt_ids.tolist() == [[1], [2]]
    assert len(source.last) == 2


def test_a_constant_discount_reads_no_log_probs():
    source, world = tracker(divergence="constant"), World()
    for _ in range(2):
        source.learn(batch_of([1], [1.0]), world.context)
    assert pair(source, 1) == pytest.approx([(0.5 * 0.875 + 1) * 0.875 + 1, 0.5 * 0.875**2])
    assert not world.read
    assert not len(source.last)


def test_priorities_are_symmetric_and_largest_where_least_is_known():
    source = tracker(samples=1)
    ends = {0: [0.0] * 10**6, 1: [1.0] * 10**6, 2: [0.0, 0.0, 1.0], 3: [1.0, 1.0, 0.0], 4: [0.0, 1.0]}
    source.prepare(Survey(ends))
    lost, won, low, high, even, unseen = source.priorities(torch.tensor([0, 1, 2, 3, 4, 99])).tolist()
    assert lost == pytest.approx(0.05, abs=1e-3)
    assert won == pytest.approx(lost)
    assert low == pytest.approx(high)
    assert low == pytest.approx(math.sqrt(0.375 * 0.625) + 0.05)
    assert even == unseen == pytest.approx(0.55)
    assert tracker(epsilon=0.2).priorities(torch.tensor([1])).tolist() == pytest.approx([0.7])


def test_everything_travels_bit_for_bit():
    source, world = tracker(), World(log_probs=lambda batch: -batch.response_ids.float() / 7)
    source.learn(batch_of([9, 2], [1.0, 0.0], ids=[[1, 2, 3], [4, 5, 0]], mask=[[1, 0, 1], [1, 1, 0]]), world.context)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    restored = tracker(samples=4)
    restored.load_state_dict(torch.load(file, weights_only=True))
    restored.prepare(unsurveyed)
    before = {name: x.clone() for name, x in source.get_extra_state().items()}
    for name, x in restored.get_extra_state().items():
        assert torch.equal(x, before[name]), name
        assert x.dtype == before[name].dtype, name
    world.log_probs = lambda batch: -batch.response_ids.float() / 6.9
    snapshot = source.get_extra_state()
    for one in (source, restored):
        one.learn(batch_of([2, 5, 9], [1.0, 0.0, 0.0]), world.context)
    for name, x in source.get_extra_state().items():
        assert torch.equal(x, restored.get_extra_state()[name]), name
    assert all(torch.equal(x, before[name]) for name, x in snapshot.items())  # a saved state does not move on


def test_an_empty_tracker_travels_too():
    source = tracker()
    source.load_state_dict(tracker().state_dict())
    source.learn(batch_of([2], [1.0]), World().context)
    assert rates(source, 2)[0] > 0.5


def test_prompts_without_identity_and_scores_beyond_one_are_one_line():
    for act in (lambda s, b: s.values(b, World().context), lambda s, b: s.learn(b, World().context)):
        with pytest.raises(UsageError, match=r"BetaTracker needs prompt identities .* uid -1; give every prompt"):
            act(tracker(), batch_of([3, -1], [1.0, 0.0]))
    with pytest.raises(UsageError, match="BetaTracker needs prompt identities"):
        tracker().priorities(torch.tensor([-1]))
    for score in (1.5, -0.5):
        with pytest.raises(
            UsageError,
            match=rf"BetaTracker: scores must be in \[0, 1\], got {score}; scale .* or take another value source",
        ):
            tracker().learn(batch_of([3, 4, 5], [1.0, NAN, score]), World().context)


@pytest.mark.parametrize(
    "options",
    [
        {"half_life": 0.0},
        {"rho_min": 1.0},
        {"rho_max": 0.5},
        {"rho_max": 1.1},
        {"samples": -1},
        {"epsilon": -0.1},
        {"divergence": "kl"},
    ],
)
def test_options_outside_their_domain_are_one_line(unchecked_shapes, options):
    with pytest.raises(UsageError, match="BetaTracker: "):
        BetaTracker(**options)


def test_the_counts_are_kept_in_double_precision():
    source, rate = tracker(samples=3), 0.1 + 0.2
    source.prepare(Survey({4: [0.1, 0.2, 0.3]}))
    assert pair(source, 4) == pytest.approx([8 * 1.1 / 4, 8 * 2.9 / 4], rel=1e-14)
    assert source.get_extra_state()["counts"].dtype == torch.float64
    assert source.get_extra_state()["uids"].dtype == torch.int64
    constant, world = tracker(divergence="constant", rho_min=0.9), World()
    constant.learn(batch_of([1], [rate]), world.context)
    constant.learn(batch_of([1], [rate]), world.context)
    expected = [0.9 * (0.5 * 0.9 + rate) + rate, 0.9 * (0.5 * 0.9 + 1 - rate) + 1 - rate]
    assert pair(constant, 1) == pytest.approx(expected, rel=1e-14)


def test_every_prompt_has_its_own_divergence():
    source, world = tracker(), World()
    source.learn(batch_of([5, 3], [1.0, 1.0], ids=[[1, 1], [2, 2]], mask=[[1, 1], [1, 1]]), world.context)
    world.log_probs = lambda batch: -batch.response_ids.double() * torch.tensor([[1.004], [1.004]])[: len(batch)]
    source.learn(batch_of([5, 3], [1.0, 1.0]), world.context)
    once = 0.5 * 0.96 + 1
    assert pair(source, 5)[0] == pytest.approx(2 ** (-0.004 / 0.06) * once + 1)
    assert pair(source, 3)[0] == pytest.approx(2 ** (-0.008 / 0.06) * once + 1)


def test_a_survey_of_a_prompt_without_identity_names_the_tracker():
    with pytest.raises(UsageError, match=r"^BetaTracker needs prompt identities"):
        tracker(samples=1).prepare(Survey({-1: [1.0]}))


def test_the_ends_of_the_domains_are_allowed():
    assert BetaTracker(rho_min=0.0, epsilon=0.0).rho_min == 0.0
    with pytest.raises(UsageError, match=r"^BetaTracker: rho_min"):
        BetaTracker(rho_min=1.0, rho_max=1.0)
