"""A bound on the mean of a penalty, and the dual variable that prices it."""

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.gates import HighEntropy
from rl4llm.objectives import SequenceMean, SequenceSum, TokenMean
from rl4llm.regularizers import Constrained, EntropyBonus, KLPenalty, RatioPenalty
from rl4llm.testing.strategies import masks, rollouts, tensors


def alone(sums):
    """One rank."""
    return sums


@st.composite
def penalties(draw):
    mask = draw(masks())
    return draw(tensors(tuple(mask.shape), -1.0, 2.0)), mask


def build(limit=0.5, **options):
    return Constrained(RatioPenalty(), limit=limit, **options).build()


@given(st.lists(penalties(), min_size=1, max_size=4), st.floats(-1.0, 2.0), st.floats(0.0, 1.0))
def test_one_step_is_the_projected_ascent_on_the_mean_of_all_that_was_observed(drawn, limit, lr):
    dual = build(limit, lr=lr, initial=0.3, maximum=0.6)
    for penalty, where in drawn:
        dual.observe(penalty, where)
    dual.step(alone)
    seen = torch.cat([penalty[where] for penalty, where in drawn])
    expected = min(max(0.3 + lr * (seen.mean().item() - limit), 0.0), 0.6) if len(seen) else 0.3
    assert dual.multiplier.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(penalties(), st.floats(-1.0, 2.0))
def test_the_multiplier_grows_if_and_only_if_the_mean_exceeds_the_limit(drawn, limit):
    penalty, where = drawn
    dual = build(limit, initial=1.0, lr=0.1)
    dual.observe(penalty, where)
    dual.step(alone)
    mean = penalty[where].mean().item() if where.any() else limit
    if abs(mean - limit) > 1e-9:
        assert (dual.multiplier > 1.0) == (mean > limit)
        assert (dual.multiplier < 1.0) == (mean < limit)


def test_the_multiplier_stays_between_zero_and_its_maximum():
    dual, token = build(0.5, initial=0.1, lr=1.0, maximum=2.0), torch.ones(1, 1, dtype=torch.bool)
    for penalty, expected in [(0.0, 0.0), (0.0, 0.0), (1.0, 0.5), (9.0, 2.0), (9.0, 2.0), (0.0, 1.5)]:
        dual.observe(torch.full((1, 1), penalty), token)
        dual.step(alone)
        assert dual.multiplier.item() == expected


def test_at_constant_ratio_one_the_multiplier_falls_to_zero():
    dual, mask = Constrained(RatioPenalty(), limit=0.04).build(), torch.ones(2, 3, dtype=torch.bool)
    for _ in range(20):
        before = dual.multiplier.item()
        dual.observe(torch.zeros(2, 3), mask)
        dual.step(alone)
        assert dual.multiplier.item() < before or before == 0
    assert dual.multiplier == 0


@given(penalties())
def test_without_step_size_it_is_a_fixed_weight_and_without_observations_it_stays(drawn):
    fixed, idle = build(lr=0.0, initial=0.7), build(lr=0.5, initial=0.7)
    fixed.observe(*drawn)
    idle.observe(drawn[0], torch.zeros_like(drawn[1]))
    for dual in (fixed, idle):
        dual.step(alone)
        assert dual.multiplier.item() == 0.7


@given(penalties())
def test_a_step_forgets_what_it_saw(drawn):
    dual = build(initial=1.0)
    dual.observe(*drawn)
    dual.step(alone)
    after = dual.multiplier.clone()
    dual.step(alone)
    assert torch.equal(dual.multiplier, after)
    dual.observe(torch.full((1, 2), 0.5), torch.ones(1, 2, dtype=torch.bool))  # exactly at the limit
    dual.step(alone)
    torch.testing.assert_close(dual.multiplier, after, rtol=1e-12, atol=0)


@given(st.lists(penalties(), min_size=2, max_size=3))
def test_ranks_that_sum_what_they_saw_agree_with_one_that_saw_everything(drawn):
    whole, ranks = build(lr=0.3, initial=0.4), [build(lr=0.3, initial=0.4) for _ in drawn]
    for rank, (penalty, where) in zip(ranks, drawn, strict=True):
        rank.observe(penalty, where)
        whole.observe(penalty, where)
    asked = []
    for rank in ranks:
        rank.step(lambda sums: asked.append(sums.clone()) or sums)  # what each rank hands in
    whole.step(alone)
    total = torch.stack(asked).sum(0)
    for penalty, where in drawn:
        rank = build(lr=0.3, initial=0.4)
        rank.observe(penalty, where)
        rank.step(lambda sums: total)
        torch.testing.assert_close(rank.multiplier, whole.multiplier, rtol=1e-12, atol=0)
    assert len(asked) == len(drawn)


def test_a_rank_without_observations_takes_part_in_the_sum():
    dual = build(limit=0.5, lr=1.0, initial=1.0)
    dual.step(lambda sums: sums + torch.tensor([6.0, 4.0], dtype=sums.dtype))
    assert dual.multiplier.item() == 2.0


@given(penalties(), st.sampled_from([torch.nan, torch.inf]))
def test_masked_penalties_are_never_read_and_nothing_holds_a_graph(drawn, garbage):
    penalty, where = drawn
    first, second = build(initial=1.0), build(initial=1.0)
    first.observe(penalty, where)
    second.observe(penalty.masked_fill(~where, garbage).requires_grad_(), where)
    graphs = []
    for dual in (first, second):
        dual.step(lambda sums: graphs.append(sums.requires_grad) or sums)
    assert graphs == [False, False]
    assert torch.equal(first.multiplier, second.multiplier)
    assert not second.multiplier.requires_grad


def test_the_state_is_the_multiplier_bit_for_bit():
    dual, other = build(initial=0.1, lr=1 / 3), build()
    dual.observe(torch.full((1, 3), 0.7), torch.ones(1, 3, dtype=torch.bool))
    dual.step(alone)
    dual.observe(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert list(dual.state_dict()) == ["multiplier"]
    file = io.BytesIO()
    torch.save(dual.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    assert torch.equal(other.multiplier, dual.multiplier)
    assert other.multiplier.dtype == torch.float64
    after = other.multiplier.clone()
    other.step(alone)  # what had been observed was not saved
    assert torch.equal(other.multiplier, after)


def test_the_multiplier_keeps_its_digits_whatever_the_module_is_cast_to():
    dual = build(initial=0.1)
    for cast in (dual.bfloat16, dual.float, dual.half):
        cast()
        assert dual.multiplier.dtype == torch.float64
        assert dual.multiplier.item() == 0.1
    assert "multiplier" in dict(dual.named_buffers())
    assert not list(dual.parameters())
    assert copy.deepcopy(dual).multiplier.item() == 0.1


def test_low_precision_penalties_are_summed_in_float64():
    dual = build(limit=0.0, lr=1.0, initial=0.0)
    dual.observe(torch.full((1, 1000), 1.0078125, dtype=torch.bfloat16), torch.ones(1, 1000, dtype=torch.bool))
    dual.step(alone)
    assert dual.multiplier.item() == pytest.approx(1.0078125, rel=1e-12)


def test_the_multiplier_of_a_policy_settles_where_the_constraint_holds():
    old = torch.tensor([[0.4, 0.35, 0.25]], dtype=torch.float64).log()
    advantages, mask = torch.tensor([[1.0, -0.5, -0.9]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    constraint = Constrained(RatioPenalty(), limit=0.04, lr=0.5, initial=0.0)
    dual, logits = constraint.build(), old.clone().requires_grad_()
    for _ in range(4000):
        log_ratios = logits.log_softmax(-1) - old
        penalty = (old.exp() * torch.expm1(log_ratios) ** 2).sum()[None, None]
        loss = -(old.exp() * log_ratios.exp() * advantages).sum() + dual.multiplier * penalty.sum()
        (slope,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 0.1 * slope
        dual.observe(penalty, mask[:, :1])
        dual.step(alone)
    assert penalty.item() == pytest.approx(0.04, rel=0.02)
    assert dual.multiplier > 0.1


@given(rollouts(), st.floats(0.0, 5.0))
def test_calling_it_gives_the_penalty_with_weight_one(batch, coef):
    policy = PolicyOutput(batch.ref_log_probs, entropies=batch.entropies)
    for penalty, unit in [
        (RatioPenalty(coef), RatioPenalty(1.0)),
        (KLPenalty(coef, "k2"), KLPenalty(1.0, "k2")),
        (EntropyBonus(coef), EntropyBonus(1.0)),
    ]:
        assert torch.equal(Constrained(penalty, limit=0.1)(policy, batch), unit(policy, batch))


def test_everything_else_is_that_of_the_penalty():
    constraint = Constrained(KLPenalty(0.3, where=HighEntropy()), limit=0.1)
    assert constraint.reads == ("ref_log_probs",)
    assert constraint.asks == ()
    assert constraint.where == HighEntropy()
    assert constraint.coef == 1.0
    entropy = Constrained(EntropyBonus(), limit=-0.3)
    assert entropy.asks == ("entropies",)
    assert entropy.where is None
    assert eval(repr(constraint)) == pickle.loads(pickle.dumps(constraint)) == constraint
    assert hash(constraint) == hash(pickle.loads(pickle.dumps(constraint)))
    assert (constraint.initial, constraint.lr, constraint.maximum) == (0.04, 0.05, 10.0)
    assert constraint.build().multiplier.item() == 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": math.inf}, r"limit must be in \(-inf, inf\), got inf"),
        ({"limit": math.nan}, "limit must be in"),
        ({"initial": -0.1}, r"initial must be in \[0, 10\], got -0.1"),
        ({"initial": 11.0}, r"initial must be in \[0, 10\], got 11.0"),
        ({"lr": -1.0}, r"lr must be in \[0, inf\), got -1.0"),
        ({"maximum": 0.0}, r"maximum must be in \(0, inf\), got 0.0"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UsageError, match=f"Constrained: {message}"):
        Constrained(RatioPenalty(), **{"limit": 0.1, **options})


def test_a_penalty_without_a_weight_is_refused():
    with pytest.raises(
        UsageError,
        match=r"Constrained: penalty must have a coef to replace, Constrained has none; wrap, for example, Ratio",
    ):
        Constrained(Constrained(RatioPenalty(), limit=0.1), limit=0.2)


def test_wrong_shapes_are_one_line(unchecked_shapes):
    with pytest.raises(UsageError, match=r"DualVariable.observe: penalty has shape \(2,\), response_mask \(1, 2\)"):
        build().observe(torch.zeros(2), torch.ones(1, 2, dtype=torch.bool))


# --- the mean of the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", [TokenMean(), SequenceMean(), SequenceSum()])
@given(drawn=st.lists(penalties(), min_size=1, max_size=3), random=st.randoms(use_true_random=False))
def test_it_watches_the_mean_that_the_loss_takes_over_all_that_is_counted(aggregator, drawn, random):
    """Microbatches of one step: Σ of the aggregated penalties over the counts of all of them."""
    dual, total, count = build(0.5, lr=0.1, initial=1.0, maximum=9.0), 0.0, 0.0
    for penalty, counted in drawn:
        where = counted & (penalty > random.uniform(-1.0, 1.0))
        dual.observe(penalty, where, counted, aggregator)
        total += aggregator(torch.where(where, penalty, 0.0), counted, normalizer=1).item()
        count += aggregator.count(counted).item()
    dual.step(alone)
    expected = min(max(1.0 + 0.1 * (total / count - 0.5), 0.0), 9.0) if count else 1.0
    assert dual.multiplier.item() == pytest.approx(expected, rel=1e-9)


def test_sums_are_exact_to_double_precision():
    dual, mask = build(0.0, lr=1.0, initial=0.0, maximum=1e9), torch.ones(1, 3, dtype=torch.bool)
    dual.observe(torch.tensor([[2.0**24, 1.0, 1.0]]), mask)
    dual.step(alone)
    assert dual.multiplier.item() == (2.0**24 + 2) / 3


def test_what_is_counted_has_the_shape_of_the_penalty(unchecked_shapes):
    with pytest.raises(UsageError, match=r"^DualVariable.observe: counted has shape \(1, 2\), response_mask \(1, 3\)"):
        build().observe(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool))
