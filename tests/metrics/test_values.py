"""Metrics of critics and gates: the same over any cut into batches, and never a look outside the mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.critics import calibration_curve, calibration_error, explained_variance, response_places
from rl4llm.metrics import (
    KINDS,
    Calibration,
    ErrorByPlace,
    ExplainedVariance,
    GatedShare,
    SpreadErrorRankCorrelation,
    kinds_at,
    token_kinds,
)
from rl4llm.testing.strategies import rollouts

METRICS = {
    "explained variance": (ExplainedVariance, lambda b: (b.values, b.returns)),
    "calibration": (lambda: Calibration(3), lambda b: (b.values, b.returns)),
    "error by place": (ErrorByPlace, lambda b: (b.values, b.returns)),
    "rank correlation": (SpreadErrorRankCorrelation, lambda b: (b.critic_values, b.returns)),
    "gated share": (
        lambda: GatedShare(torch.arange(4) % len(KINDS)),
        lambda b: (b.advantages > 0, b.response_ids.abs() % 5),
    ),
}


def numbers(metric):
    found = metric.compute()
    parts = found.values() if isinstance(found, dict) else [found]
    return torch.cat([torch.zeros(0), *(part.reshape(-1) for part in parts)])


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=20)
@given(rollouts())
def test_a_batch_in_pieces_is_the_whole_batch(name, batch):
    make, arguments = METRICS[name]
    whole, pieces = make(), make()
    whole.update(*arguments(batch), batch.response_mask)
    for row in range(len(batch)):
        piece = batch.select(torch.arange(len(batch)) == row)
        pieces.update(*arguments(piece), piece.response_mask)
    assert torch.allclose(numbers(whole), numbers(pieces), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=20)
@given(rollouts())
def test_nothing_outside_the_mask_is_read(name, batch):
    make, arguments = METRICS[name]
    clean, poisoned = make(), make()
    clean.update(*arguments(batch), batch.response_mask)
    given_now = []
    for x in arguments(batch):
        wrong = torch.full_like(x, torch.nan) if x.is_floating_point() else torch.full_like(x, True)
        given_now.append(torch.where(batch.response_mask, x, wrong))
    poisoned.update(*given_now, batch.response_mask)
    assert torch.equal(numbers(clean).nan_to_num(7.0), numbers(poisoned).nan_to_num(7.0))


@settings(max_examples=20)
@given(rollouts())
def test_a_single_batch_gives_what_the_functions_give(batch):
    mask, values, returns = batch.response_mask, batch.values, batch.returns
    first, second = ExplainedVariance(), Calibration(4)
    for metric in (first, second):
        metric.update(values, returns, mask)
    assert torch.allclose(first.compute(), explained_variance(values, returns, mask), atol=1e-6)
    assert torch.equal(second.compute()["error"], calibration_error(values[mask], returns[mask], 4))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.integers(1, 8), st.randoms())
def test_the_calibration_error_is_the_mean_distance_of_the_two_columns(values, bins, random):
    values = torch.tensor(values)
    outcomes = torch.tensor([float(random.random() < 0.5) for _ in values])
    curve = calibration_curve(values, outcomes, bins)
    sizes = torch.tensor([len(part) for part in values.tensor_split(bins)])
    distance = ((curve[:, 0] - curve[:, 1]).abs().nan_to_num() * sizes).sum() / len(values)
    assert torch.allclose(distance, calibration_error(values, outcomes, bins), atol=1e-5)
    ordered = curve[:, 0][~curve[:, 0].isnan()]
    assert (ordered.diff() >= -1e-6).all()


@given(rollouts(), st.integers(1, 5))
def test_places_ascend_and_parts_differ_by_one_token_at_most(batch, parts):
    places = response_places(batch.response_mask, parts)
    assert torch.equal(places >= 0, batch.response_mask)
    for row, mask in zip(places, batch.response_mask, strict=True):
        own = row[mask]
        assert (own.diff() >= 0).all()
        counts = torch.bincount(own, minlength=parts)
        assert len(counts) == parts
        assert counts.max() - counts.min() <= 1


def test_errors_are_told_apart_by_place():
    metric = ErrorByPlace(parts=2)
    mask = torch.tensor([[True, False, True, True, True]])
    metric.update(torch.tensor([[1.0, 9.0, -1.0, 0.0, -0.25]]), torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]]), mask)
    assert metric.compute().tolist() == [1.0, 0.125]


def test_kinds_are_those_of_the_text():
    class Tokenizer:
        all_special_ids = [0]  # noqa: RUF012

        def __len__(self):
            return 7

        def batch_decode(self, sequences):
            return [["<s>", " \n", " the", "42", "=", "x2", "é"][ids[0]] for ids in sequences]

    kinds = token_kinds(Tokenizer())
    assert [KINDS[kind] for kind in kinds] == ["special", "space", "word", "number", "symbol", "word", "word"]
    assert kinds_at(torch.tensor([[3, 6], [7, 900]]), kinds).tolist() == [[3, 2], [0, 0]]  # a padded vocabulary


def test_the_share_is_that_of_each_kind():
    metric = GatedShare(torch.tensor([0, 3, 4]))
    ids, keep = torch.tensor([[1, 1, 2, 1, 0]]), torch.tensor([[True, False, False, True, False]])
    metric.update(keep, ids, torch.tensor([[True, True, True, True, False]]))
    assert {kind: share.item() for kind, share in metric.compute().items()} == {
        "number": pytest.approx(1 / 3),
        "symbol": 1.0,
    }


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_no_error():
    assert ExplainedVariance().compute() == 0
    assert SpreadErrorRankCorrelation().compute() == 0
    assert ErrorByPlace(2).compute().isnan().all()
    assert GatedShare(torch.tensor([0])).compute() == {}


def test_wrong_shapes_are_refused(unchecked_shapes):
    mask = torch.ones(1, 2, dtype=torch.bool)
    for metric in (ExplainedVariance(), Calibration(), ErrorByPlace()):
        with pytest.raises(UsageError, match=f"{type(metric).__name__}: values"):
            metric.update(torch.zeros(2, 2), torch.zeros(1, 2), mask)
    with pytest.raises(UsageError, match="Calibration"):
        Calibration(0)
    with pytest.raises(UsageError, match="ErrorByPlace"):
        ErrorByPlace(0)
