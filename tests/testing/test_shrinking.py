"""Counterexamples are small: nothing in them can be left out, and they stay in the domain."""

import pytest
import torch

from rl4llm.testing import Domain, Law, broken, runner
from rl4llm.testing.domains import EVERYTHING
from rl4llm.testing.shrinking import smallest


def example(test, domain=EVERYTHING):
    def law(part, batch, random):
        assert not test(batch), "broken"

    found = broken(None, Law("law", law, ""), examples=60, domain=domain)
    assert found is not None
    return found.example


def test_two_responses_of_three_tokens_are_all_that_is_left(unchecked_shapes):
    batch = example(lambda b: (b.lengths >= 3).sum() >= 2)
    assert batch.response_mask.tolist() == [[True] * 3] * 2


def test_numbers_are_round_and_scores_are_ranks(unchecked_shapes):
    batch = example(lambda b: b.scores.max() > b.scores.min() and (b.values < -1).any(), Domain(scores="scored"))
    assert sorted(batch.scores.tolist()) == [0.0, 1.0]
    assert torch.equal(batch.values, batch.values.round())
    assert batch.values.min() == -2


@pytest.mark.parametrize("domain", [Domain(rows="non-empty"), Domain(groups="differing"), EVERYTHING.narrow()])
def test_small_examples_stay_in_the_domain(domain, unchecked_shapes):
    batch = example(lambda b: len(b) >= 2, domain)
    assert len(batch) == 2
    for name, tensor in domain.restrict(batch).tensors().items():
        torch.testing.assert_close(tensor, getattr(batch, name), rtol=0, atol=0, equal_nan=True)


def test_what_breaks_nothing_is_not_kept(unchecked_shapes):
    batch, _ = runner._drawn(20)[-1]
    assert smallest(batch, EVERYTHING.restrict, lambda smaller: False) is batch
