"""What a part returns is refused by name where the loop takes it, and passed on untouched where it is right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GAE, AdvantageEstimator, Advantages, GroupRelative, Whiten
from rl4llm.batch import PolicyOutput
from rl4llm.borders import (
    NotFiniteError,
    checked_advantages,
    checked_gate,
    checked_loss,
    checked_penalty,
    checked_rewards,
    checked_values,
    checked_weights,
    checked_whitened,
)
from rl4llm.checks import UsageError
from rl4llm.corrections import Correction, TruncatedImportance
from rl4llm.gates import AgreementGate, Gate, HighEntropy
from rl4llm.objectives import GSPO, PolicyObjective, PPOClip
from rl4llm.regularizers import KLPenalty, KLReward, Regularizer
from rl4llm.rewards import RewardShaping
from rl4llm.testing.strategies import rollouts
from tests.core.test_batch import _small

NAN = float("nan")
FEWER = settings(max_examples=settings.default.max_examples // 4)


def small(**changes):
    """Two responses, of which the first has trained tokens at columns 0 and 2, the second none."""
    zeros = torch.zeros(2, 3)
    return _small(**{"advantages": zeros, "values": zeros, "ref_log_probs": zeros, "entropies": zeros, **changes})


def gives(family, result):
    """A part of a family that only defines its call."""
    return type(f"Own{family.__name__}", (family,), {"__call__": lambda self, *arguments: result})()


WRONG_TOKENS = [
    (None, "NoneType"),
    (torch.zeros(2), r"float32 of shape \(2,\)"),
    (torch.zeros(2, 1, dtype=torch.bfloat16), r"bfloat16 of shape \(2, 1\)"),
    (torch.zeros(2, 3, dtype=torch.long), r"int64 of shape \(2, 3\)"),
]


@FEWER
@given(rollouts(), st.sampled_from([GAE(), GroupRelative()]))
def test_what_is_right_passes_untouched(batch, estimator):
    advantages = checked_advantages(estimator, batch)
    assert torch.equal(advantages.advantages, estimator(batch).advantages)
    assert torch.equal(checked_whitened(Whiten(), batch.values, batch), Whiten()(batch.values, batch))
    assert torch.equal(checked_gate(AgreementGate() & ~HighEntropy(), batch), (AgreementGate() & ~HighEntropy())(batch))
    output = PolicyOutput(batch.old_log_probs.clone().requires_grad_())
    for objective in (PPOClip(), GSPO()):
        assert torch.equal(checked_loss(objective, output, batch), objective(output, batch))
    assert checked_penalty(KLPenalty(), output, batch).requires_grad
    assert torch.equal(checked_weights(TruncatedImportance(), batch), TruncatedImportance()(batch))
    assert torch.equal(checked_rewards(KLReward(), batch), KLReward()(batch))
    assert checked_values("MiniCritics", batch) is batch


@pytest.mark.parametrize(("wrong", "shown"), WRONG_TOKENS)
def test_a_wrong_kind_is_one_line_that_names_the_part_and_both_shapes(wrong, shown):
    batch, output, expected = small(), PolicyOutput(torch.zeros(2, 3)), r"expected floats of shape \(2, 3\)"
    calls = [
        ("OwnAdvantageEstimator", lambda p: checked_advantages(gives(AdvantageEstimator, p), batch)),
        ("OwnWhiten", lambda p: checked_whitened(gives(Whiten, p), batch.advantages, batch)),
        ("OwnCorrection", lambda p: checked_weights(gives(Correction, p), batch)),
        ("OwnRewardShaping", lambda p: checked_rewards(gives(RewardShaping, p), batch)),
        ("OwnPolicyObjective", lambda p: checked_loss(gives(PolicyObjective, p), output, batch)),
        ("OwnRegularizer", lambda p: checked_penalty(gives(Regularizer, p), output, batch)),
    ]
    for name, call in calls:
        with pytest.raises(UsageError, match=f"^{name} returned {shown}.*; expected ") as caught:
            call(wrong)
        assert "\n" not in str(caught.value)
        if name != "OwnAdvantageEstimator":
            assert caught.match(expected)


def test_a_bare_tensor_is_no_estimate(unchecked_shapes):
    with pytest.raises(UsageError, match=r"^OwnAdvantageEstimator returned float32 of shape \(2, 3\); expected Advant"):
        checked_advantages(gives(AdvantageEstimator, torch.zeros(2, 3)), small())
    for wrong in (Advantages(torch.zeros(2)), Advantages(torch.zeros(2, 3), torch.zeros(2))):
        with pytest.raises(UsageError, match=r"returned float32 of shape \(2,\) as (advantages|returns); expected"):
            checked_advantages(gives(AdvantageEstimator, wrong), small())


def test_a_gate_gives_truth_values_within_the_mask():
    message = "OwnGate returned float32 of shape (2, 3); expected bool of shape (2, 3): True where the token is kept."
    floats = gives(Gate, torch.ones(2, 3))
    for gate in (floats, floats & HighEntropy(), HighEntropy() | floats, ~floats):
        with pytest.raises(UsageError) as caught:
            checked_gate(gate, small())
        assert str(caught.value) == message
    with pytest.raises(UsageError, match=r"^OwnGate kept 4 tokens outside response_mask; return the result & batch"):
        checked_gate(gives(Gate, torch.ones(2, 3, dtype=torch.bool)), small())


def test_a_loss_has_the_shape_of_its_level():
    part = gives(PolicyObjective, torch.zeros(2))
    with pytest.raises(UsageError, match=r"declare level = 'response' if it has one loss per response\.$"):
        checked_loss(part, PolicyOutput(torch.zeros(2, 3)), small())
    type(part).level = "response"
    assert checked_loss(part, PolicyOutput(torch.zeros(2, 3)), small()).shape == (2,)
    tokens = gives(PolicyObjective, torch.zeros(2, 3))
    type(tokens).level = "response"
    with pytest.raises(
        UsageError, match=r"returned float32 of shape \(2, 3\); expected floats of shape \(2,\): one lo"
    ):
        checked_loss(tokens, PolicyOutput(torch.zeros(2, 3)), small())


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_counted_at_trained_tokens_alone(bad):
    holes = torch.tensor([[0.0, bad, 0.0], [bad, bad, bad]])
    trained = torch.tensor([[bad, bad, bad], [0.0, bad, 0.0]])
    given = {
        "advantages": lambda x: checked_advantages(gives(AdvantageEstimator, Advantages(x)), small()),
        "returns": lambda x: checked_advantages(gives(AdvantageEstimator, Advantages(0 * _finite(x), x)), small()),
        "rewards": lambda x: checked_rewards(gives(RewardShaping, x), small()),
        "weights": lambda x: checked_weights(gives(Correction, x), small()),
        "values": lambda x: checked_values("Own", small(values=x)),
    }
    for what, call in given.items():
        call(holes)
        with pytest.raises(
            NotFiniteError, match=rf"^Own\w* returned 2 non-finite {what} at trained tokens; "
        ) as caught:
            call(trained)
        assert (caught.value.what, caught.value.count) == (what, 2)
        assert "\n" not in str(caught.value)


def _finite(x):
    return x.nan_to_num(0.0, 0.0, 0.0)


def test_the_input_that_is_not_finite_is_named_and_otherwise_the_part_itself():
    batch = small(values=torch.full((2, 3), NAN))
    with pytest.raises(NotFiniteError, match=r"^GAE returned 2 non-finite advantages .*; batch\.values is not finite"):
        checked_advantages(GAE(), batch)
    with pytest.raises(NotFiniteError, match=r"all that it reads is finite there, so it divides by 0 or overflows"):
        checked_advantages(gives(AdvantageEstimator, Advantages(torch.full((2, 3), NAN))), small())


def test_the_critic_that_went_wrong_is_named():
    critic_values = torch.zeros(3, 2, 3)
    critic_values[1, 0, 0] = critic_values[1, 0, 1] = critic_values[0, 1, 0] = NAN
    with pytest.raises(NotFiniteError, match=r"^MiniCritics returned 1 non-finite critic values .* of critic 1; lower"):
        checked_values("MiniCritics", small(critic_values=critic_values))
    with pytest.raises(UsageError, match=r"^Own returned NoneType; expected the batch with values\.$"):
        checked_values("Own", None)
    with pytest.raises(UsageError, match=r"^Own returned a batch without values"):
        checked_values("Own", small(values=None))
