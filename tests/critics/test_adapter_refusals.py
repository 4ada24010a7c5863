"""What critics over one frozen model refuse: one line each, before anything is loaded."""

import pytest

from rl4llm.checks import UsageError
from rl4llm.critics import AdapterCritics
from rl4llm.models import LoRA, Policy, Pretrained
from tests.models.architectures import architecture
from tests.models.folders import saved

LOW = LoRA(rank=2)


@pytest.mark.parametrize(
    "changes", [{"size": 0}, {"shards": "own"}, {"aggregate": "max"}, {"inputs": "all"}, {"head_scale": -1.0}]
)
def test_choices_out_of_range_are_refused_by_name(unchecked_shapes, changes):
    with pytest.raises(UsageError, match=f"AdapterCritics: {next(iter(changes))} must be"):
        AdapterCritics(**changes)


def refused(policy, critics, message, responses=4):
    with pytest.raises(UsageError, match=message):
        critics.check(policy, responses)


def test_misfits_are_one_line_before_anything_is_loaded(tiny_policy, tiny_critic, tmp_path, monkeypatch):
    monkeypatch.setattr("rl4llm.models.loading.load_weights", lambda *_: pytest.fail("weights were loaded"))
    adapted = Pretrained(tiny_critic, adapter=LOW)
    refused(tiny_policy, AdapterCritics(None), r"model=null .* has no adapter; .*--model.policy.adapter=LoRA")
    refused(tiny_policy, AdapterCritics(adapted), "has an adapter already, .*--model.critics.adapter")
    refused(tiny_policy, AdapterCritics(str(tmp_path)), "has no config.json")
    refused(tiny_policy, AdapterCritics(tiny_critic, size=5), r"AdapterCritics: more critics \(size=5\)")
    refused(tiny_policy, AdapterCritics(tiny_critic, LoRA(targets=["q_prj"])), "no linear layer named 'q_prj'")
    refused(Pretrained(tiny_policy, adapter=LOW), AdapterCritics(None, LoRA(targets=["q_prj"])), "named 'q_prj'")
    with pytest.raises(UsageError, match=r"critics' base, .* has a context of 64 tokens"):
        AdapterCritics(tiny_critic).check_context(65)
    AdapterCritics(tiny_critic, inputs="prompt").check_context(65)
    AdapterCritics(None).check_context(65)


def test_a_folder_of_an_adapter_counts_as_one(tiny_policy, tmp_path):
    Policy.load(Pretrained(tiny_policy, adapter=LOW)).save(tmp_path)
    folder = str(tmp_path / "adapter")
    AdapterCritics(None).check(folder, 4)
    refused(tiny_policy, AdapterCritics(folder), "has an adapter already")


def test_critics_with_other_ids_are_refused(tiny_policy, tmp_path):
    model, tokenizer = architecture("llama")
    tokenizer.add_tokens(["unheard-of"])
    model.resize_token_embeddings(len(tokenizer))
    Policy(model, tokenizer).save(tmp_path)
    refused(str(tmp_path), AdapterCritics(tiny_policy), "knows 16 ids, but the tokenizer of the policy, .* gives 17")


def test_objects_are_checked_as_folders_are(unchecked_shapes, tmp_path):
    plain = Policy.load(saved(tmp_path))
    adapted = Policy(LOW.wrap(Policy.load(saved(tmp_path)).model), plain.tokenizer)
    refused(plain, AdapterCritics(None), "model=null .* has no adapter")
    refused(plain, AdapterCritics(adapted), "has an adapter already")
    refused(adapted, AdapterCritics(None, LoRA(targets=["q_prj"])), "named 'q_prj'")
    AdapterCritics(None).check(adapted, 4)
    AdapterCritics(plain).check(adapted, 4)
    own = AdapterCritics(plain, LOW).build(adapted, adapted).critics[0].backbone
    assert not {id(weight) for weight in own.parameters()} & {id(weight) for weight in plain.parameters()}


def test_the_policys_model_needs_a_policy():
    with pytest.raises(UsageError, match="no policy is given"):
        AdapterCritics(None).build("rl4llm/digits")


def test_the_absence_of_peft_is_one_line(tiny_policy, tiny_critic, monkeypatch):
    monkeypatch.setattr("rl4llm.models.lora.find_spec", lambda name: None)
    refused(tiny_policy, AdapterCritics(tiny_critic), r"needs the package peft, .*'rl4llm\[lora\]'")
