"""Diagnostics and validation metrics."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.metrics import PassAtK, approximate_kl, pass_at_k_rate, silenced_tokens
from rl4llm.objectives import PPOClip
from rl4llm.testing.strategies import rollouts
from tests.log_probs import moved


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_member(n, data):
    k, correct = data.draw(st.integers(1, n)), data.draw(st.integers(0, n))
    subsets = list(combinations([i < correct for i in range(n)], k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k_rate(torch.tensor([correct]), torch.tensor([n]), k=k).item() == pytest.approx(share, abs=1e-12)


def test_pass_at_k_needs_k_responses():
    with pytest.raises(UsageError, match="k=3 needs 3 responses a prompt, one has 2"):
        pass_at_k_rate(torch.tensor([1]), torch.tensor([2]), k=3)


def test_the_metric_is_the_mean_over_all_prompts_however_they_come():
    metric = PassAtK(2)
    metric.update(torch.tensor([1, 0]), torch.tensor([4, 4]))
    metric.update(torch.tensor([4]), torch.tensor([4]))
    metric.update(torch.tensor([1]), torch.tensor([1]))  # too few scored responses to tell
    assert metric.compute() == pytest.approx((0.5 + 0.0 + 1.0) / 3)


@given(rollouts())
def test_silenced_tokens_are_the_clipped_ones(batch):
    log_probs = moved(batch.old_log_probs, 0.4 * (batch.ref_log_probs - batch.rollout_log_probs)).requires_grad_()
    loss = PPOClip(clip_low=0.05, clip_high=0.05)(PolicyOutput(log_probs), batch)
    ratio = (log_probs - batch.old_log_probs).exp().detach()
    up, down = (batch.advantages > 0) & (ratio > 1.05), (batch.advantages < 0) & (ratio < 0.95)
    silenced = silenced_tokens(loss, log_probs, batch.advantages, batch.response_mask)
    assert torch.equal(silenced, (up | down) & batch.response_mask)
    assert log_probs.grad is None


@given(rollouts())
def test_approximate_kl_is_zero_without_a_move_and_never_negative(batch):
    assert not approximate_kl(batch.old_log_probs, batch.old_log_probs, batch.response_mask).any()
    moved = approximate_kl(batch.rollout_log_probs, batch.old_log_probs, batch.response_mask)
    assert (moved >= 0).all()
    garbage = torch.where(batch.response_mask, batch.rollout_log_probs, torch.nan)
    assert torch.equal(approximate_kl(garbage, batch.old_log_probs, batch.response_mask), moved)
