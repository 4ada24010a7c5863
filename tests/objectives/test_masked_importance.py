"""SAO's two-sided mask: what is inside keeps its weight, what is outside has no gradient, for either sign."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.corrections import IcePop
from rl4llm.objectives import (
    ImportanceWeighted,
    MaskedImportanceWeighted,
    masked_importance_weighted,
    ppo_clip,
    reinforce,
)
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved

low_widths, high_widths = st.sampled_from([0.1, 0.3, 0.8, 1.0]), st.sampled_from([0.1, 3.0, 5.0, torch.inf])


def coefficient(objective, new, *others, **options):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    objective(new, *others, **options).sum().backward()
    return -new.grad


@st.composite
def sequences(draw):
    """Log-probs, those of the policy that sampled, advantages and a mask; ratios from e⁻³ to e³."""
    mask = draw(masks())
    shape = tuple(mask.shape)
    sampled = draw(tensors(shape, -4.0, -0.1))
    return moved(sampled, draw(tensors(shape))), sampled, draw(tensors(shape)), mask


@given(sequences(), low_widths, high_widths)
def test_outside_the_bounds_there_is_no_gradient_for_either_sign(drawn, low, high):
    new, sampled, advantages, mask = drawn
    for sign in (1.0, -1.0):
        signed = sign * (0.1 + advantages.abs())
        found = coefficient(masked_importance_weighted, new, sampled, signed, mask, clip_low=low, clip_high=high)
        ratios = (new - sampled).exp()
        inside = mask & (1 - low < ratios) & (ratios < 1 + high)
        torch.testing.assert_close(found, torch.where(inside, ratios * signed, 0.0), rtol=1e-9, atol=0)


@given(sequences())
def test_while_the_policy_is_the_one_that_sampled_it_is_reinforce(drawn):
    new, _, advantages, mask = drawn
    found = coefficient(masked_importance_weighted, new, new, advantages, mask)
    assert torch.equal(found, coefficient(reinforce, new, advantages, mask))


@given(sequences(), st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]))
def test_masked_positions_are_never_read(drawn, garbage):
    *given_, mask = drawn
    dirty = [torch.where(mask, x, garbage) for x in given_]
    assert torch.equal(
        coefficient(masked_importance_weighted, *dirty, mask), coefficient(masked_importance_weighted, *drawn)
    )


@given(rollouts(), low_widths, st.sampled_from([0.1, 3.0, 5.0]))
def test_at_the_start_of_an_update_it_is_importance_weighting_under_ice_pop(batch, low, high):
    """π = π_old: the correction from engine to trainer, with the same bounds, does all the work."""
    log_probs = batch.old_log_probs
    corrected = batch.advantages * IcePop(low=1 - low, high=1 + high)(batch)
    whole = batch.replace(advantages=corrected)
    found = coefficient(lambda new: MaskedImportanceWeighted(low, high)(PolicyOutput(log_probs=new), batch), log_probs)
    two = coefficient(lambda new: ImportanceWeighted()(PolicyOutput(log_probs=new), whole), log_probs)
    far = (batch.old_log_probs - batch.rollout_log_probs).abs() > 15  # beyond 20, exponentials are tangents
    torch.testing.assert_close(found[~far], two[~far], rtol=1e-6, atol=1e-9)


def test_ppo_keeps_the_side_that_would_move_back():
    new, sampled = torch.tensor([[0.9]]).log(), torch.tensor([[0.1]]).log()
    mask, bad = torch.tensor([[True]]), torch.tensor([[-1.0]])
    assert coefficient(ppo_clip, new, sampled, bad, mask).item() == pytest.approx(-9.0, rel=1e-5)
    assert coefficient(masked_importance_weighted, new, sampled, bad, mask).item() == 0.0


def test_the_bounds_by_hand():
    # The paper's: (0.7, 6). π/μ = 0.7 and 6 are outside the open interval up to rounding; 0.71 and 5.9 inside.
    ratios = torch.tensor([[0.69, 0.71, 5.9, 6.1]], dtype=torch.float64)
    mask, ones = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.float64)
    found = coefficient(masked_importance_weighted, ratios.log() - 3, 0 * ratios - 3, ones, mask)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.71, 5.9, 0.0]], dtype=torch.float64))


def test_an_engine_without_log_probs_is_seen_in_the_loss():
    """Not taken for a token outside the bounds, which would train on nothing in silence."""
    one, mask = torch.ones(1, 1), torch.tensor([[True]])
    assert masked_importance_weighted(-one, torch.nan * one, one, mask).isnan().all()


def test_it_reads_what_the_engine_reported():
    assert MaskedImportanceWeighted.anchor == "rollout_log_probs"
    assert "old_log_probs" not in MaskedImportanceWeighted().reads


@pytest.mark.parametrize("options", [{"clip_low": 0.0}, {"clip_low": 1.1}, {"clip_high": 0.0}, {"clip_high": -1.0}])
def test_widths_that_leave_no_ratio_of_one_inside_are_refused(options):
    (name,) = options
    with pytest.raises(UsageError, match=rf"^MaskedImportanceWeighted: {name} must be in "):
        MaskedImportanceWeighted(**options)


def test_a_ratio_at_a_bound_is_outside():
    """π/μ = ½ and 2, exact in floating point, with bounds of ½ and 2."""
    logs = torch.tensor([[-2.0, 0.0]], dtype=torch.float64) * torch.tensor(2.0, dtype=torch.float64).log()
    old = torch.full_like(logs, logs[0, 0].item() / 2)
    ratios, mask, ones = (logs - old).exp(), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.float64)
    low, high = 1 - ratios[0, 0].item(), ratios[0, 1].item() - 1
    found = coefficient(masked_importance_weighted, logs, old, ones, mask, clip_low=low, clip_high=high)
    assert found.tolist() == [[0.0, 0.0]]
    inside = coefficient(masked_importance_weighted, logs, old, ones, mask, clip_low=low + 1e-9, clip_high=high + 1e-9)
    torch.testing.assert_close(inside, ratios)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_shapes_are_checked(unchecked_shapes, place):
    tensors_ = [-torch.ones(2, 3) for _ in range(3)]
    tensors_[place] = tensors_[place][:, :1]
    name = ("log_probs", "rollout_log_probs", "advantages")[place]
    with pytest.raises(UsageError, match=rf": {name} has shape \(2, 1\), response_mask"):
        masked_importance_weighted(*tensors_, torch.ones(2, 3, dtype=torch.bool))
