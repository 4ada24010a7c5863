"""A twin computes what the model computes, holds the same tensors, and shares nothing else."""

import pytest
import torch

from rl4llm.models import LoRA
from rl4llm.models.sharing import frozen_twin
from tests.models.architectures import CONFIGS, architecture
from tests.models.folders import tiny
from tests.models.test_adapters import IDS, away_from_zero


def states(model):
    return model.eval()(input_ids=IDS, use_cache=False).last_hidden_state


@pytest.fixture(params=CONFIGS)
def trunk(request):
    torch.manual_seed(0)
    return architecture(request.param)[0].base_model.requires_grad_(False)


def test_a_twin_holds_the_same_tensors_and_gives_the_same_states(trunk):
    twin = frozen_twin(trunk)
    own, others = dict(trunk.named_parameters()), dict(twin.named_parameters())
    assert own.keys() == others.keys()
    assert all(others[name] is weight for name, weight in own.items())
    assert not {id(module) for module in trunk.modules()} & {id(module) for module in twin.modules()}
    assert torch.equal(states(twin), states(trunk))


def test_an_adapter_in_a_twin_reaches_neither_the_model_nor_another_twin(trunk):
    before = states(trunk)
    one, other = (away_from_zero(LoRA(rank=2).wrap(frozen_twin(trunk)), seed) for seed in (0, 1))
    assert torch.equal(states(trunk), before)
    assert not torch.allclose(states(one), states(other))
    states(one).square().sum().backward()
    assert all(weight.grad is None for model in (trunk, other) for weight in model.parameters())
    assert all((weight.grad is not None) == weight.requires_grad for weight in one.parameters())


def test_a_twin_of_a_model_with_an_adapter_has_none(trunk):
    before = states(trunk)
    adapted = away_from_zero(LoRA(rank=2).wrap(trunk))
    with_adapter = states(adapted)
    twin = frozen_twin(adapted)
    assert torch.equal(states(twin), before)
    assert torch.equal(states(adapted), with_adapter)
    assert not any(weight.requires_grad for weight in twin.parameters())
    frozen = {id(weight) for weight in adapted.parameters() if not weight.requires_grad}
    assert {id(weight) for weight in twin.parameters()} == frozen
    assert torch.equal(states(LoRA(rank=3).wrap(twin)), before)


def test_a_weight_that_the_model_trains_is_copied_as_it_is():
    model = tiny()[0].base_model.requires_grad_(False)
    model.norm.weight.requires_grad_(True)
    twin = frozen_twin(model)
    assert twin.norm.weight is not model.norm.weight
    assert torch.equal(twin.norm.weight, model.norm.weight)
    assert not twin.norm.weight.requires_grad
    assert model.norm.weight.requires_grad
