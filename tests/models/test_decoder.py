"""The stack of decoder layers is found in any architecture."""

import pytest
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from rl4llm.checks import UsageError
from rl4llm.models import Policy, Pretrained, decoder_layers, load_backbone
from tests.models.folders import tiny

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 15}
MODELS = {
    "Qwen3": (lambda: tiny(layers=3)[0], "Qwen3DecoderLayer"),
    "Llama": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)), "LlamaDecoderLayer"),
    "GPT2": (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=15, n_embd=16, n_layer=3, n_head=2)), "GPT2Block"),
    "experts": (lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=1)), "MixtralDecoderLayer"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_are_the_repeated_blocks_in_order(name):
    make, kind = MODELS[name]
    model = make()
    for found in (decoder_layers(model), decoder_layers(model.base_model)):
        assert [type(layer).__name__ for layer in found] == [kind] * 3
    stack = next(module for module in model.modules() if isinstance(module, nn.ModuleList) and module[0] is found[0])
    assert all(a is b for a, b in zip(stack, found, strict=True))


def test_a_model_that_names_no_blocks_is_searched_for_its_largest_list_of_one_class():
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.layers = nn.ModuleList(nn.Sequential(nn.ModuleList([nn.Linear(8, 8)])) for _ in range(2))
    model.mixed = nn.ModuleList([nn.Linear(99, 99), nn.LayerNorm(9)])
    assert decoder_layers(model) == list(model.layers)


def test_layers_of_several_classes_are_found_by_their_names_beside_a_larger_list():
    model = nn.Module()
    model._no_split_modules = ["Linear", "Bilinear"]
    model.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 64)) for _ in range(4))
    model.layers = nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)])
    assert decoder_layers(model) == list(model.layers)


def test_a_model_without_layers_is_one_line():
    with pytest.raises(UsageError, match=r"Linear holds no stack of decoder layers"):
        decoder_layers(nn.Linear(2, 2))


@pytest.mark.parametrize("name", MODELS)
def test_first_layers_of_every_architecture(name, tmp_path):
    model = MODELS[name][0]()
    Policy(model, tiny()[1]).save(tmp_path)
    backbone = load_backbone(Pretrained(str(tmp_path), layers=2))
    assert len(decoder_layers(backbone)) == 2
    for kept, whole in zip(decoder_layers(backbone), decoder_layers(model), strict=False):
        expected = dict(whole.named_parameters())
        assert all(parameter.equal(expected[key]) for key, parameter in kept.named_parameters())
