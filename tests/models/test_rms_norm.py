"""RMSNorm with a backward pass of its own: transformers' values bit for bit, and autograd's gradients."""

import copy
import pickle

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from rl4llm.models import Policy, load_backbone, load_causal_lm
from rl4llm.models.rms_norm import RMSNorm, with_own_norms
from tests.models.test_prefixes import ARCHITECTURES, SIZES

MODELS = {name: sizes for name, sizes in ARCHITECTURES.items() if name not in ("GPT2", "Bloom")} | {
    "Gemma": SIZES | {"head_dim": 8},
    "Olmo2": SIZES,
    "Phi3": SIZES,
}
WITHOUT = {"Cohere"}  # it has layer norms


def random_model(name):
    """A small model whose norms have weights far from one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**MODELS[name])).eval()
    for module in norms(model):
        nn.init.normal_(module.weight)
    return model


def norms(model):
    return [module for module in model.modules() if "RMSNorm" in type(module).__name__]


def gradients(model, ids):
    model.zero_grad()
    logits = model(ids).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_values_bit_for_bit_and_the_same_gradients(name):
    theirs, ids = random_model(name), torch.arange(3, 33).view(3, 10)
    own = with_own_norms(copy.deepcopy(theirs))
    assert all(type(module) is RMSNorm for module in norms(own))
    assert bool(norms(own)) is (name not in WITHOUT)
    (logits, expected), (found, got) = gradients(theirs, ids), gradients(own, ids)
    assert torch.equal(found, logits)
    assert got.keys() == expected.keys() == {parameter for parameter, _ in theirs.named_parameters()}
    for weight, grad in expected.items():
        scale = max(1.0, float(grad.abs().max()))
        torch.testing.assert_close(got[weight], grad, rtol=0, atol=3e-6 * scale, msg=lambda text, at=weight: at + text)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Olmo2"])
def test_values_in_bfloat16_are_the_same_bit_for_bit(name):
    theirs, ids = random_model(name).bfloat16(), torch.arange(3, 33).view(3, 10)
    own = with_own_norms(copy.deepcopy(theirs))
    (logits, expected), (found, got) = gradients(theirs, ids), gradients(own, ids)
    assert torch.equal(found, logits)
    for weight, grad in expected.items():
        assert got[weight].dtype == torch.bfloat16
        assert (got[weight] - grad).float().norm() <= 0.05 * grad.float().norm()


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Olmo2"])
def test_autocast_gives_the_same_dtypes_and_values(name):
    theirs, ids = random_model(name), torch.arange(3, 33).view(3, 10)
    own = with_own_norms(copy.deepcopy(theirs))
    with torch.autocast("cpu", torch.bfloat16):
        logits, found = theirs(ids).logits, own(ids).logits
    assert found.dtype == logits.dtype
    assert torch.equal(found, logits)


@given(
    rows=st.integers(1, 4),
    features=st.integers(1, 9),
    centered=st.booleans(),
    rounds_first=st.booleans(),
    seed=st.integers(0, 99),
    frozen=st.sampled_from(["", "states", "weight"]),
)
def test_the_gradient_is_that_of_the_equation(rows, features, centered, rounds_first, seed, frozen):
    rounds_first = rounds_first and not centered
    random = torch.Generator().manual_seed(seed)
    states = 3 * torch.randn(rows, 2, features, generator=random)
    weight, upstream = torch.randn(features, generator=random), torch.randn(states.shape, generator=random)
    norm = RMSNorm(nn.Parameter(weight), eps=0.1, centered=centered, rounds_first=rounds_first)
    norm.weight.requires_grad_(frozen != "weight")
    leaf = states.clone().requires_grad_(frozen != "states")
    (norm(leaf) * upstream).sum().backward()
    exact = states.double().requires_grad_(), weight.double().requires_grad_()
    root = (exact[0].square().mean(-1, keepdim=True) + 0.1).sqrt()
    (exact[0] / root * (exact[1] + centered) * upstream).sum().backward()
    for mine, true, skipped in ((leaf, exact[0], "states"), (norm.weight, exact[1], "weight")):
        if frozen == skipped:
            assert mine.grad is None
        else:
            torch.testing.assert_close(mine.grad.double(), true.grad, rtol=1e-5, atol=1e-5)


def test_a_double_model_has_gradients_in_double():
    norm = RMSNorm(nn.Parameter(torch.rand(8).double()), eps=1e-6)
    states = torch.randn(5, 8).double().requires_grad_()
    whole = torch.autograd.grad(norm(states).sum(), norm.weight)[0]
    parts = sum(torch.autograd.grad(norm(row[None]).sum(), norm.weight)[0] for row in states)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-14)


def test_without_gradient_the_values_are_the_same():
    norm, states = RMSNorm(nn.Parameter(torch.rand(8)), eps=1e-6), torch.randn(5, 8)
    with torch.no_grad():
        quiet = norm(states)
    assert not quiet.requires_grad
    assert torch.equal(quiet, norm(states))


def test_a_gradient_of_a_gradient_is_refused():
    norm, states = RMSNorm(nn.Parameter(torch.rand(8)), eps=1e-6), torch.randn(5, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(norm(states).square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


class GatedRMSNorm(nn.RMSNorm):
    def forward(self, states, gate):
        return super().forward(states) * gate


class SteepRMSNorm(nn.RMSNorm):
    def forward(self, states):
        return super().forward(states).pow(1.0001)


class BiasedRMSNorm(nn.RMSNorm):
    def __init__(self, features):
        super().__init__(features, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(features))


class TwinnedRMSNorm(nn.RMSNorm):
    def __init__(self, features):
        super().__init__(features, eps=1e-6)
        self.inner = nn.Linear(2, 2, bias=False)


def patched():
    norm = nn.RMSNorm(8, eps=1e-6)
    norm.forward = lambda states: states
    return norm


@pytest.mark.parametrize(
    "other",
    [
        nn.LayerNorm(8),
        nn.RMSNorm(8, eps=1e-6, elementwise_affine=False),
        nn.RMSNorm(8),
        nn.RMSNorm((2, 4), eps=1e-6),
        GatedRMSNorm(8, eps=1e-6),
        SteepRMSNorm(8, eps=1e-6),
        BiasedRMSNorm(8),
        TwinnedRMSNorm(8),
        patched(),
    ],
    ids=["LayerNorm", "no weight", "no eps", "two dimensions", "gate", "other values", "bias", "inner", "patched"],
)
def test_what_is_not_the_same_stays(other):
    model = with_own_norms(nn.Sequential(other, nn.RMSNorm(8, eps=1e-6)))
    assert model[0] is other
    assert type(model[1]) is RMSNorm


def test_the_global_random_state_is_left_alone():
    model = random_model("Qwen3")
    before = torch.get_rng_state()
    with_own_norms(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_keep_their_names_identity_and_ties():
    model = random_model("Qwen3")
    model.model.norm = model.model.layers[0].input_layernorm
    names, objects = list(model.state_dict()), dict(model.named_parameters())
    with_own_norms(model)
    assert list(model.state_dict()) == names
    assert all(parameter is objects[name] for name, parameter in model.named_parameters())
    assert model.model.norm.weight is model.model.layers[0].input_layernorm.weight


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent_and_equal(again):
    norm, states = RMSNorm(nn.Parameter(torch.rand(8)), eps=1e-3, centered=True, rounds_first=False), torch.randn(3, 8)
    other = again(norm)
    assert torch.equal(other(states), norm(states))
    nn.init.zeros_(other.weight)
    assert not torch.equal(other(states), norm(states))


@pytest.mark.parametrize("load", [load_causal_lm, load_backbone, lambda name: Policy.load(name).model])
def test_loaded_models_have_them(load):
    found = norms(load("rl4llm/digits"))
    assert found
    assert all(type(norm) is RMSNorm for norm in found)


def test_a_model_that_is_given_keeps_its_modules():
    model = AutoModelForCausalLM.from_config(transformers.Qwen3Config(**MODELS["Qwen3"]))
    policy = Policy(model, Policy.load("rl4llm/digits").tokenizer)
    assert not any(type(norm) is RMSNorm for norm in norms(policy.model))
