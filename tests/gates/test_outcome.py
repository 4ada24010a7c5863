"""Gates by what became of a response keep or drop it whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.gates import CorrectResponses, FinishedResponses, correct_responses, finished_responses
from rl4llm.testing.strategies import rollouts


@given(rollouts(), st.data())
def test_truncated_responses_are_dropped_whole_and_no_others(batch, data):
    size = len(batch)
    truncated = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    kept = FinishedResponses()(batch.replace(truncated=truncated))
    for row in range(size):
        expected = torch.zeros_like(kept[row]) if truncated[row] else batch.response_mask[row]
        assert torch.equal(kept[row], expected)


@given(rollouts(), st.sampled_from([-0.5, 0.0, 0.5]))
def test_responses_above_the_threshold_are_kept_whole_and_no_others(batch, threshold):
    kept = CorrectResponses(threshold)(batch)
    for row, score in enumerate(batch.scores.tolist()):
        right = not math.isnan(score) and score > threshold
        assert torch.equal(kept[row], batch.response_mask[row] & right)


def test_a_score_at_the_threshold_is_not_above_it():
    mask = torch.ones(4, 1, dtype=torch.bool)
    scores = torch.tensor([0.0, 0.1, 1.0, math.nan])
    assert correct_responses(scores, mask)[:, 0].tolist() == [False, True, True, False]
    assert correct_responses(scores, mask, threshold=0.1)[:, 0].tolist() == [False, False, True, False]
    assert correct_responses(scores, mask, threshold=-1.0)[:, 0].tolist() == [True, True, True, False]


def test_their_errors_name_the_argument(unchecked_shapes):
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"finished_responses: truncated has shape \(3,\), response_mask \(2, 3\)"):
        finished_responses(torch.zeros(3, dtype=torch.bool), mask)
    with pytest.raises(UsageError, match=r"finished_responses: truncated must be a bool tensor"):
        finished_responses(torch.zeros(2), mask)
    with pytest.raises(UsageError, match=r"correct_responses: scores has shape \(3,\), response_mask \(2, 3\)"):
        correct_responses(torch.zeros(3), mask)
    with pytest.raises(UsageError, match=r"correct_responses: response_mask must be a bool tensor"):
        correct_responses(torch.zeros(2), mask.float())
    with pytest.raises(UsageError, match=r"CorrectResponses: threshold must be in .*, got nan"):
        CorrectResponses(math.nan)
