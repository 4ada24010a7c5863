"""A baseline that was chosen before training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.advantages import ConstantBaseline, constant_baseline
from rl4llm.checks import UsageError
from rl4llm.testing.strategies import rollouts, scores

constants = st.sampled_from([0.0, -1.0, 0.3, 100.0])


@given(st.integers(0, 6).flatmap(scores), constants)
def test_it_is_the_score_less_the_constant_and_zero_without_a_score(numbers, constant):
    expected = [0.0 if score != score else score - constant for score in numbers.tolist()]
    found = constant_baseline(numbers, baseline=constant)
    assert found.tolist() == expected
    assert not found.requires_grad


@given(rollouts(), constants)
def test_the_component_spreads_it_over_the_trained_tokens(batch, constant):
    advantages, returns = ConstantBaseline(constant)(batch)
    assert returns is None
    for row, mask in enumerate(batch.response_mask.tolist()):
        outcome = batch.outcomes[row].item()
        expected = 0.0 if outcome != outcome else outcome - constant
        assert advantages[row].tolist() == [expected if trained else 0.0 for trained in mask]


@pytest.mark.parametrize(("share", "constant"), [(0.25, 0.0), (0.25, 0.5), (0.7, -0.5)])
def test_the_share_of_positive_examples_is_that_of_the_docstring(share, constant):
    # n responses with scores ±1, a share p good: Σ of the positive advantages : Σ of the negative ones.
    count = 1000
    outcomes = torch.where(torch.arange(count) < share * count, 1.0, -1.0).double()
    advantages = constant_baseline(outcomes, baseline=constant)
    positive, total = advantages.clamp(min=0).sum(), advantages.abs().sum()
    assert positive / total == pytest.approx(share * (1 - constant) / (1 + (1 - 2 * share) * constant))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_it_comes_in_the_dtype_of_the_scores(dtype):
    found = constant_baseline(torch.tensor([1, 0]).to(dtype), baseline=0.5)
    assert found.dtype == (torch.float32 if dtype == torch.int64 else dtype)
    assert found.tolist() == [0.5, -0.5]


def test_what_does_not_fit_is_named(unchecked_shapes):
    with pytest.raises(UsageError, match=r"^constant_baseline: scores has shape \(2, 1\); expected 1 axes: batch\."):
        constant_baseline(torch.zeros(2, 1))
    with pytest.raises(UsageError, match=r"^constant_baseline: baseline must be in \(-inf, inf\), got inf"):
        constant_baseline(torch.zeros(2), baseline=torch.inf)


def test_without_a_constant_the_score_is_the_advantage():
    assert constant_baseline(torch.tensor([1.0, -2.0])).tolist() == [1.0, -2.0]
    assert ConstantBaseline() == ConstantBaseline(0.0)
