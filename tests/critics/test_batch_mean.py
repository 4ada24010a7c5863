"""The control: values that are their own mean, a spread that stays, critics that learn as ever."""

import pytest
import torch
from hypothesis import given, settings

from rl4llm.checks import UsageError
from rl4llm.critics import (
    BatchMean,
    BatchMeanSource,
    BetaTracker,
    MiniCritics,
    TrunkCritic,
    critic_std,
)
from rl4llm.testing.strategies import rollouts
from tests.critics.helpers import Said, World

CONTEXT = World().context
FEWER = settings(max_examples=settings.default.max_examples // 3)


@FEWER
@given(rollouts())
def test_the_value_is_the_mean_over_trained_tokens_and_the_spread_stays(batch):
    judged = BatchMeanSource(Said()).values(batch, CONTEXT)
    mask = batch.response_mask
    expected = batch.values[mask].mean() if mask.any() else 0.0
    torch.testing.assert_close(judged.values, torch.full_like(batch.values, float(expected)), rtol=0, atol=1e-9)
    spreads = [critic_std(x.critic_values)[mask] for x in (judged, batch)]
    torch.testing.assert_close(*spreads, rtol=0, atol=1e-9)
    torch.testing.assert_close(judged.critic_values.mean(0)[mask], judged.values[mask], rtol=0, atol=1e-9)


@FEWER
@given(rollouts())
def test_critics_learn_from_their_own_values(batch):
    said = Said(batch)
    source = BatchMeanSource(said)
    source.learn(source.values(batch, CONTEXT), CONTEXT)
    (learned,) = said.learned
    assert torch.equal(learned.critic_values, batch.critic_values)
    assert torch.equal(learned.values, batch.values)


def test_it_silences_critics_and_nothing_else(tiny_policy, tiny_critic):
    control = BatchMean(MiniCritics(tiny_critic))
    control.check(tiny_policy, 4)
    assert set(control.build(tiny_policy, None).learners) == {"critic_0", "critic_1"}
    with pytest.raises(UsageError, match="more critics"):
        control.check(tiny_policy, 1)
    for other in (TrunkCritic(), BetaTracker(), BatchMean()):
        with pytest.raises(
            UsageError, match=f"BatchMean: critics={type(other).__name__} (has no critics of its own|is trained with)"
        ):
            BatchMean(other).check(tiny_policy, 4)
