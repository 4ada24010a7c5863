import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.log_probs import token_log_probs
from rl4llm.regularizers import EntropyBonus, entropy_bonus
from rl4llm.testing.strategies import rollouts


@given(rollouts())
def test_the_penalty_is_minus_the_entropy_at_trained_tokens(batch):
    mask = batch.response_mask
    penalty = entropy_bonus(batch.entropies, mask)
    assert torch.equal(penalty[mask], -batch.entropies[mask])
    assert (penalty[~mask] == 0).all()


@given(rollouts(), st.sampled_from([torch.nan, torch.inf, 1e30]))
def test_masked_positions_are_never_read_and_get_no_gradient(batch, garbage):
    mask = batch.response_mask
    entropies = torch.where(mask, batch.entropies, garbage).requires_grad_()
    penalty = entropy_bonus(entropies, mask)
    assert torch.equal(penalty, entropy_bonus(batch.entropies, mask))
    penalty.sum().backward()
    assert torch.equal(entropies.grad, torch.where(mask, -1.0, 0.0).double())


@given(rollouts(), st.floats(0.0, 10.0))
def test_a_component_is_its_function_times_coef_whatever_its_gate(batch, coef):
    policy = PolicyOutput(batch.old_log_probs, entropies=batch.entropies)
    expected = coef * entropy_bonus(batch.entropies, batch.response_mask)
    assert torch.equal(EntropyBonus(coef)(policy, batch), expected)


def test_minimizing_the_penalty_flattens_the_policy():
    logits = torch.tensor([[[2.0, 0.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    entropies = token_log_probs(logits, torch.tensor([[0]]), entropy=True).entropies
    entropy_bonus(entropies, torch.tensor([[True]])).sum().backward()
    assert logits.grad[0, 0, 0] > 0 > logits.grad[0, 0, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype):
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert entropy_bonus(torch.ones(1, 2, dtype=dtype), mask).dtype == dtype


@given(rollouts())
def test_missing_entropies_are_named_with_their_source(batch):
    with pytest.raises(UsageError, match=r"EntropyBonus needs policy.entropies, got None; call token_log_probs"):
        EntropyBonus()(PolicyOutput(batch.old_log_probs), batch)
    assert EntropyBonus.asks == ("entropies",)


def test_wrong_arguments_are_refused(unchecked_shapes):
    with pytest.raises(UsageError, match=r"entropy_bonus: entropies has shape \(2,\), response_mask \(2, 2\)"):
        entropy_bonus(torch.zeros(2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"EntropyBonus: coef must be in \[0, inf\), got -1"):
        EntropyBonus(coef=-1.0)


def test_a_component_is_a_value():
    component = EntropyBonus(coef=0.5)
    assert eval(repr(component)) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(EntropyBonus(coef=0.5))
    assert component.paper
    with pytest.raises(AttributeError):
        component.coef = 1.0
