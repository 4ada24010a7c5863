"""An adapter computes, is switched off, and is merged, in any architecture, and leaves the model as it was."""

import pytest
import torch
from peft import LoraConfig

from rl4llm.checks import UsageError
from rl4llm.models import LoRA
from rl4llm.models.adapters import base_names, engine_weights, has_adapter, using_adapter
from rl4llm.models.lora import inject
from tests.models.architectures import CONFIGS, architecture
from tests.models.folders import tiny

IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 3, 9, 4, 4]])


def log_probs(model):
    return torch.log_softmax(model.eval()(input_ids=IDS, use_cache=False).logits, -1)


def away_from_zero(model, seed=0):
    """The model with an adapter that changes what it computes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(params=CONFIGS)
def models(request):
    """A model, and one with the same weights and an adapter."""
    torch.manual_seed(0)
    plain = architecture(request.param)[0]
    torch.manual_seed(0)
    return plain, LoRA(rank=4).wrap(architecture(request.param)[0])


def test_an_adapter_starts_at_the_model_and_alone_is_trained(models):
    plain, adapted = models
    assert type(adapted) is type(plain)
    assert torch.equal(log_probs(adapted), log_probs(plain))
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    assert base_names(adapted).isdisjoint(trained)
    assert base_names(plain) == set()


@torch.no_grad()
def test_weights_for_an_engine_give_a_fresh_model_the_same_log_probs(models):
    plain, adapted = models
    away_from_zero(adapted)
    expected, before = log_probs(adapted), {name: weight.clone() for name, weight in adapted.state_dict().items()}
    names = [name for name, _ in engine_weights(adapted)]
    assert sorted(names) == sorted(name for name, _ in plain.named_parameters(remove_duplicate=False))
    base = dict(engine_weights(adapted, adapter=None))
    assert all(torch.equal(base[name], weight) for name, weight in plain.named_parameters())
    for name, weight in engine_weights(adapted):
        plain.get_parameter(name).copy_(weight)
    assert (log_probs(plain) - log_probs(adapted)).abs().max() < 1e-5
    assert torch.equal(log_probs(adapted), expected)
    assert all(torch.equal(before[name], weight) for name, weight in adapted.state_dict().items())


def test_an_adapter_switched_off_is_the_model(models):
    plain, adapted = models
    changed = log_probs(away_from_zero(adapted))
    trained = [weight.requires_grad for weight in adapted.parameters()]
    with using_adapter(adapted, None):
        assert torch.equal(log_probs(adapted), log_probs(plain))
        assert (changed - log_probs(adapted)).abs().max() > 1e-3
        weights = dict(engine_weights(adapted))
    assert all(torch.equal(weights[name], weight) for name, weight in plain.named_parameters())
    assert torch.equal(log_probs(adapted), changed)
    assert [weight.requires_grad for weight in adapted.parameters()] == trained


def test_a_gradient_survives_a_pass_of_the_reference_in_between(models):
    adapted = away_from_zero(models[1])

    def gradients(between):
        adapted.zero_grad()
        loss = log_probs(adapted).square().sum()
        between()
        loss.backward()
        return {name: weight.grad.clone() for name, weight in adapted.named_parameters() if weight.requires_grad}

    def refer():
        with using_adapter(adapted, None), torch.no_grad():
            log_probs(adapted)

    expected = gradients(lambda: None)
    found = gradients(refer)
    assert expected
    assert all(torch.equal(found[name], gradient) and gradient.any() for name, gradient in expected.items())


def test_adapters_stay_float32_on_a_narrow_model():
    model = LoRA(rank=2).wrap(tiny()[0].bfloat16())
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for _, weight in engine_weights(away_from_zero(model))} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16


def test_the_seed_makes_the_adapter_and_nothing_else_is_drawn():
    def first(seed):
        model = LoRA(rank=2, seed=seed).wrap(tiny()[0])
        return next(weight for name, weight in model.named_parameters() if "lora_A" in name)

    state = torch.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_several_adapters_share_one_model():
    model = tiny()[0]
    for name in "ab":
        inject(model, LoraConfig(r=2, target_modules=["q_proj"]), name)
    away_from_zero(model)
    trained = [weight.requires_grad for weight in model.parameters()]
    with using_adapter(model, "a"):
        a = log_probs(model)
    with using_adapter(model, "b"):
        b = log_probs(model)
    assert not torch.allclose(a, b)
    assert trained == [weight.requires_grad for weight in model.parameters()]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1"),
        ({"alpha": 0.0}, "alpha must be in"),
        ({"targets": []}, "targets must name linear layers"),
        ({"targets": ""}, "targets must name linear layers"),
    ],
)
def test_choices_out_of_range_are_refused(choice, message):
    with pytest.raises(UsageError, match=message):
        LoRA(**choice)


def test_a_target_that_the_model_has_not_is_named_with_those_that_it_has():
    with pytest.raises(UsageError, match=r"no linear layer named 'q_prj'; its linear layers are .*q_proj"):
        LoRA(targets=["v_proj", "q_prj"]).wrap(tiny()[0])


def test_the_absence_of_peft_is_one_line(monkeypatch):
    monkeypatch.setattr("rl4llm.models.lora.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"LoRA needs the package peft, .*'rl4llm\[lora\]'"):
        LoRA().wrap(tiny()[0])
    assert not has_adapter(tiny()[0])
