"""A model may be named, described, or given; whatever trains beside it is its own copy."""

import copy
import dataclasses

import pytest
import torch
from jsonargparse import ArgumentParser
from transformers import AutoModelForCausalLM

from rl4llm.checks import UsageError
from rl4llm.critics import MiniCritics, SymmetricCritic, TrunkCritic, ValueModel
from rl4llm.models import Adapter, Policy, Pretrained, check_model, load_backbone, names
from tests.models.folders import saved, tiny
from tests.models.test_models import a_batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


def every_source(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return [folder, Pretrained(folder), model, Policy.load(folder)]


def weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("index", range(4), ids=["name", "description", "model", "policy"])
def test_every_source_is_the_same_policy_and_the_same_critic(folder, index):
    source, batch = every_source(folder)[index], a_batch()
    check_model(source)
    expected = Policy.load(folder)
    assert torch.equal(Policy.load(source)(batch).log_probs, expected(batch).log_probs)
    assert torch.equal(Policy.copy_of(source)(batch).log_probs, expected(batch).log_probs)
    assert torch.equal(ValueModel.load(source, seed=3)(batch), ValueModel.load(folder, seed=3)(batch))


@pytest.mark.parametrize("index", range(4), ids=["name", "description", "model", "policy"])
@pytest.mark.parametrize("make", [Policy.copy_of, load_backbone, SymmetricCritic().build], ids=lambda f: f.__name__)
def test_what_trains_beside_a_source_shares_no_weight_with_it(folder, index, make):
    source = every_source(folder)[index]
    policy, beside = Policy.load(source), make(source)
    before = weights(policy)
    with torch.no_grad():
        for parameter in beside.parameters():
            parameter.add_(1.0)
    assert same(before, weights(policy))


def test_objects_are_trained_themselves(folder):
    model, policy = every_source(folder)[2:]
    assert Policy.load(model).model is model
    assert Policy.load(policy) is policy


def test_objects_lose_their_dropout_as_named_models_do(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.5)
    for source in (model, Policy(copy.deepcopy(model), tiny()[1])):
        policy, batch = Policy.load(source), a_batch()
        policy.model.train()
        assert torch.equal(policy(batch).log_probs, policy(batch).log_probs)


def test_a_reference_never_has_the_policys_value_head(folder):
    policy = Policy.load(folder)
    TrunkCritic().build(folder, policy)
    assert policy.value_head is not None
    assert Policy.copy_of(policy).value_head is None


def test_a_model_object_without_a_folder_asks_for_its_tokenizer():
    model, tokenizer = tiny()
    for refuses in (Policy.load, check_model):
        with pytest.raises(UsageError, match=r"nobody knows its tokenizer; pass Policy\(model, tokenizer\)"):
            refuses(model)
    check_model(Policy(model, tokenizer))


def test_the_first_layers_of_a_model_are_its_own_and_the_rest_is_never_read(folder):
    whole, first = load_backbone(folder), load_backbone(Pretrained(folder, layers=1))
    assert len(first.layers) == first.config.num_hidden_layers == len(first.config.layer_types) == 1
    assert same(weights(first.layers[0]), weights(whole.layers[0]))
    assert same(weights(first.embed_tokens) + weights(first.norm), weights(whole.embed_tokens) + weights(whole.norm))
    assert len(load_backbone(Pretrained(folder, layers=2)).layers) == 2


@pytest.mark.filterwarnings("error")
def test_the_first_layers_are_saved_and_loaded_like_any_model(folder, tmp_path):
    first = Policy.load(Pretrained(folder, layers=1))
    first.save(tmp_path)
    assert torch.equal(Policy.load(str(tmp_path))(a_batch()).log_probs, first(a_batch()).log_probs)


def test_descriptions_are_values():
    a, b = Pretrained("x", layers=2), Pretrained("x", layers=2)
    assert a == b
    assert hash(a) == hash(b)
    assert eval(repr(a)) == a
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.name = "y"


@dataclasses.dataclass(frozen=True)
class OnlyNorms(Adapter):
    """Trains the norms alone."""

    def wrap(self, model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return model


def test_an_adapter_wraps_what_is_loaded(folder):
    source = Pretrained(folder, adapter=OnlyNorms())
    for model in (Policy.load(source).model, load_backbone(source)):
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("norm" in name for name in trained)


def test_a_network_is_looked_for_once_and_left_to_a_proxy(monkeypatch):
    tried = []

    def refuse(place, timeout):
        tried.append(place)
        raise TimeoutError

    monkeypatch.setattr(names.socket, "create_connection", refuse)
    monkeypatch.setattr(names, "getproxies", dict)
    monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    names.hub_reachable.cache_clear()
    try:
        assert not names.hub_reachable()
        assert not names.hub_reachable()
        assert tried == [("huggingface.co", 443)]
        names.hub_reachable.cache_clear()
        monkeypatch.setattr(names, "getproxies", lambda: {"https": "http://proxy:3128"})
        assert names.hub_reachable()
        names.hub_reachable.cache_clear()
        monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", True)
        assert not names.hub_reachable()
        assert len(tried) == 1
    finally:
        names.hub_reachable.cache_clear()


# --- the command line -----------------------------------------------------------------------------------------------


CRITICS = MiniCritics("rl4llm/digits-critic")


def recipe(policy: "str | Pretrained" = "rl4llm/digits", critics: MiniCritics = CRITICS) -> int:
    """What a recipe's signature looks like to the parser."""


PARSED = [
    ([], "rl4llm/digits"),
    (["--policy=Qwen/Qwen3-4B-Base"], "Qwen/Qwen3-4B-Base"),
    (["--policy.name=X", "--policy.dtype=bfloat16"], Pretrained("X", dtype="bfloat16")),
    (["--policy=Pretrained", "--policy.name=X", "--policy.layers=2"], Pretrained("X", layers=2)),
    (['--policy={"name": "X", "gradient_checkpointing": true}'], Pretrained("X", gradient_checkpointing=True)),
]


@pytest.mark.parametrize(("args", "expected"), PARSED, ids=lambda x: str(x)[:50])
@pytest.mark.parametrize("slot", ["policy", "critics.model"])
def test_a_model_is_a_name_or_a_description_on_the_command_line(args, expected, slot):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(recipe)
    parsed = parser.parse_args([arg.replace("--policy", f"--{slot}") for arg in args])
    built = parser.instantiate(parsed)
    found = built.policy if slot == "policy" else built.critics.model
    assert found == (expected if args or slot == "policy" else "rl4llm/digits-critic")
