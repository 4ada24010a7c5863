"""Folders of adapters: loaded on the model that they name, trained, saved again, and refused in one line if broken."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from rl4llm.checks import UsageError
from rl4llm.critics import ValueModel
from rl4llm.models import LoRA, Policy, Pretrained, SavedAdapter, check_model, load_backbone
from rl4llm.models.adapters import using_adapter
from tests.models.architectures import CONFIGS, saved_architecture
from tests.models.folders import saved, tiny
from tests.models.test_adapters import away_from_zero
from tests.models.test_faults import Code, line_of
from tests.models.test_models import a_batch

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def log_probs(policy):
    return policy(a_batch()).log_probs


def adapted(base, folder, **choices):
    """A policy whose adapter computes something, saved."""
    policy = Policy.load(Pretrained(base, adapter=LoRA(rank=2, **choices)))
    away_from_zero(policy.model)
    policy.save(folder)
    return policy


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    base = saved(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("policy")
    return base, folder, adapted(base, folder)


@pytest.fixture
def folder(saved_twice, tmp_path):
    shutil.copytree(saved_twice[1] / "adapter", tmp_path / "adapter")
    return tmp_path / "adapter"


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_policy_reloads_merged_as_an_adapter_and_in_peft(name, tmp_path):
    from peft import PeftModel

    torch.manual_seed(0)
    base = saved_architecture(name, tmp_path / "base")
    policy = adapted(base, tmp_path / "policy")
    expected = log_probs(policy)
    check_model(str(tmp_path / "policy" / "adapter"))
    merged, again = Policy.load(str(tmp_path / "policy")), Policy.load(str(tmp_path / "policy" / "adapter"))
    assert not any("lora" in weight for weight, _ in merged.model.named_parameters())
    assert (log_probs(merged) - expected).abs().max() < 1e-5
    assert (log_probs(Policy.load(base)) - expected).abs().max() > 1e-3
    assert torch.equal(log_probs(again), expected)
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in again.model.named_parameters())
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "policy" / "adapter")
    assert torch.equal(log_probs(Policy.load(theirs)), expected)


def test_an_adapter_of_peft_is_read_with_its_own_settings(saved_twice, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(saved_twice[0])
    config = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 3}, use_rslora=True, lora_dropout=0.5
    )
    theirs = get_peft_model(model, config)
    away_from_zero(theirs)
    theirs.save_pretrained(tmp_path)
    policy = Policy.load(str(tmp_path))
    assert torch.equal(log_probs(policy), log_probs(Policy.load(theirs)))  # which turns the dropout off
    assert torch.equal(log_probs(policy), log_probs(policy))


def test_critics_start_from_an_adapters_folder_and_train_the_adapter(saved_twice):
    base, folder, policy = saved_twice
    critic = ValueModel.load(str(folder / "adapter"), seed=3)
    trained = [name for name, weight in critic.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    assert any("lora_" in name for name in trained)
    merged = ValueModel.load(str(folder), seed=3)
    torch.testing.assert_close(critic(a_batch()), merged(a_batch()), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(critic(a_batch()), ValueModel.load(base, seed=3)(a_batch()), atol=1e-5)
    torch.testing.assert_close(ValueModel.load(policy, seed=3)(a_batch()), critic(a_batch()))


def test_a_peft_object_is_trained_itself_even_if_it_was_loaded_frozen(saved_twice):
    from peft import PeftModel

    base, folder, policy = saved_twice
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    assert not any(weight.requires_grad for weight in theirs.parameters())
    check_model(theirs)
    loaded = Policy.load(theirs)
    assert loaded.model is theirs.get_base_model()
    assert torch.equal(log_probs(loaded), log_probs(policy))
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in loaded.model.named_parameters())
    with using_adapter(loaded.model, None):
        assert torch.equal(log_probs(loaded), log_probs(Policy.load(base)))


def test_the_model_may_be_named_beside_the_adapter(saved_twice, folder):
    base, _, policy = saved_twice
    with_settings(folder, base_model_name_or_path="/nowhere/model")
    assert torch.equal(log_probs(Policy.load(Pretrained(base, adapter=SavedAdapter(str(folder))))), log_probs(policy))


def test_the_tokenizer_beside_an_adapter_is_taken(saved_twice, folder):
    tokenizer = tiny()[1]
    tokenizer.add_special_tokens({"additional_special_tokens": ["="]})
    tokenizer.save_pretrained(folder)
    assert "=" in Policy.load(str(folder)).tokenizer.all_special_tokens
    assert "=" not in Policy.load(saved_twice[0]).tokenizer.all_special_tokens


def test_a_policy_is_saved_in_the_dtype_of_its_weights(saved_twice, tmp_path):
    base = saved_twice[0]
    for name, adapter in (("plain", None), ("adapter", LoRA(rank=2))):
        Policy.load(Pretrained(base, dtype="bfloat16", adapter=adapter)).save(tmp_path / name)
        found = {tensor.dtype for tensor in load_file(tmp_path / name / "model.safetensors").values()}
        assert found == {torch.bfloat16}
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == "bfloat16"
    kept = load_file(tmp_path / "adapter" / "adapter" / "adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in kept} == {torch.float32}


# --- what is refused ------------------------------------------------------------------------------------------------


def with_settings(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def with_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def pickled(folder):
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"weights": Code()}, folder / "adapter_model.bin")


def cut_off(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def of_another_model(folder):
    shutil.rmtree(folder)
    adapted(saved(folder.parent / "wider", hidden_size=24), folder.parent / "other")
    shutil.copytree(folder.parent / "other" / "adapter", folder)


REFUSED = {
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), r"adapter_config\.json cannot be read"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), r"is of type None, and only LORA is read"),
    "another kind": (lambda f: with_settings(f, peft_type="IA3"), r"is of type IA3, and only LORA is read"),
    "no model": (lambda f: with_settings(f, base_model_name_or_path=None), r"names no model .*SavedAdapter"),
    "model is gone": (
        lambda f: with_settings(f, base_model_name_or_path="/nowhere/model"),
        r"belongs to '/nowhere/model': .*does not exist.*SavedAdapter",
    ),
    "both": (lambda f: (f / "config.json").write_text("{}"), r"holds both a model .*and an adapter"),
    "modules to save": (lambda f: with_settings(f, modules_to_save=["lm_head"]), r"sets modules_to_save=\['lm_head'\]"),
    "new weights": (lambda f: with_settings(f, init_lora_weights="pissa"), r"changes the model's own weights .*pissa"),
    "trained biases": (lambda f: with_settings(f, bias="all"), r"changes the model's own weights"),
    "own code": (lambda f: with_settings(f, megatron_config={"a": 1}), r"sets megatron_config"),
    "a text as rank": (lambda f: with_settings(f, r="two"), r"adapter folder"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors does not exist"),
    "pickle": (pickled, r"adapter_model\.bin holds pickled code, which is never run; save .* as safetensors"),
    "cut off": (cut_off, r"adapter_model\.safetensors is damaged or cut off"),
    "empty": (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), r"is damaged or cut off"),
    "a tensor is missing": (lambda f: with_tensors(f, lambda t: t.pop(sorted(t)[0])), r"is missing in the file and"),
    "a tensor too many": (
        lambda f: with_tensors(f, lambda t: t.update({"base_model.model.x.weight": torch.zeros(1)})),
        r"x\.weight",
    ),
    "another model": (of_another_model, r"does not fit Qwen3ForCausalLM: .* in the file and .* in the model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_adapter_is_one_line_before_weights_are_read(name, saved_twice, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    breaks, message = REFUSED[name]
    breaks(folder)
    if name == "another model":
        with_settings(folder, base_model_name_or_path=saved_twice[0])
    for loader in (AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", refuse)
    with pytest.raises(UsageError, match=message):
        check_model(str(folder))
    assert str(folder) in line_of(check_model, str(folder))


@pytest.mark.parametrize("load", [Policy.load, load_backbone], ids=["policy", "critic"])
def test_an_adapter_with_numbers_that_are_not_finite_is_one_line(load, folder):
    with_tensors(folder, lambda tensors: tensors[sorted(tensors)[1]].fill_(float("nan")))
    assert "holds NaN or infinite numbers" in line_of(load, str(folder))


@pytest.mark.parametrize(
    ("options", "what"), [({"adapter": LoRA()}, "another adapter"), ({"layers": 1}, "the first layers alone")]
)
def test_an_adapters_folder_stands_alone(folder, options, what):
    assert f"cannot be combined with {what}" in line_of(check_model, Pretrained(str(folder), **options))


def test_nothing_that_an_adapters_folder_names_is_imported(folder, monkeypatch):
    """`auto_mapping` names a module, which peft would import to find a class."""
    (folder / "malicious.py").write_text("raise SystemExit('code of the adapter was run')")
    monkeypatch.syspath_prepend(str(folder))
    with_settings(folder, auto_mapping={"base_model_class": "Model", "parent_library": "malicious"})
    Policy.load(str(folder))
    load_backbone(str(folder))
    assert "malicious" not in sys.modules


def test_adapters_outside_the_layers_and_weights_beside_adapters_are_one_line():
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    prompts = get_peft_model(tiny()[0], PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    assert "is not in the model's layers" in line_of(Policy.load, prompts)
    beside = get_peft_model(tiny()[0], LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]))
    assert "beside its adapter; make it without modules_to_save" in line_of(Policy.load, beside)


def test_an_adapter_that_does_not_fit_is_found_before_weights_are_read(saved_twice):
    wrong = Pretrained(saved_twice[0], adapter=LoRA(targets=["c_attn"]))
    assert "no linear layer named 'c_attn'" in line_of(check_model, wrong)
